"""Reproduction of the published results: train and test each category as the paper does, and compare."""

from anomalib_stfpm.reproduction import report
from anomalib_stfpm.reproduction.all_runs import reproduce
from anomalib_stfpm.reproduction.protocol import Protocol, authors_stfpm, evaluator

__all__ = ["Protocol", "authors_stfpm", "evaluator", "report", "reproduce"]
