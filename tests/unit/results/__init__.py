"""Tests of anomalib_stfpm.results."""
