"""Measurements: each prints a ratio or a difference to a peer that is measured in the same run."""
