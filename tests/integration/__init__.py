"""Tests that run anomalib's CLI and Engine."""
