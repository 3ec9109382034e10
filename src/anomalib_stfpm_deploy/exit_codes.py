"""Exit codes of the command ``anomalib-stfpm`` that mean the same for several verbs."""

REFUSED = 120
"""A command without torch cannot be carried out as it was given; told from a number of unreadable pictures."""

INTERRUPTED = 130
"""The user has interrupted the command, and the same one goes on."""
