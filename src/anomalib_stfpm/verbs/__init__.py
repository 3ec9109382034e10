"""What ``anomalib-stfpm`` can do beside anomalib's own command line, a module a verb.

Each has a ``parser`` and a ``main`` that takes the arguments after the verb and returns the exit code.
"""
