"""Benchmarks of killed processes, long runs and numerical accuracy."""
