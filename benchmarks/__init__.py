"""Benchmarks. Each prints a ratio or a difference to a baseline that is measured in the same run."""
