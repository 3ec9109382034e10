"""Tests of anomalib_stfpm.components."""
