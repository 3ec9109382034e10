"""Tests of anomalib_stfpm."""
