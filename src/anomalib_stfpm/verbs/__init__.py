"""Verbs of ``anomalib-stfpm`` beside anomalib's own, one module each.

Each has a ``parser`` and a ``main``, which takes the arguments after the verb and returns the exit code.
"""
