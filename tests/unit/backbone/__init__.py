"""Tests of anomalib_stfpm.backbone."""
