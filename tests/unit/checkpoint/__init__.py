"""Tests of anomalib_stfpm.checkpoint."""
