"""Tests of anomalib_stfpm.training."""
