"""Tests of anomalib_stfpm.openvino."""
