"""Tests of anomalib_stfpm.data."""
