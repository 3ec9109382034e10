"""Tests of anomalib_stfpm.reproduction."""
