"""Replacements for anomalib's default pre-processor, post-processor, evaluator and metrics."""
