"""STFPM beside other models of anomalib on the same images: train, measure, time, report."""

from anomalib_stfpm.comparison.all_runs import compare
from anomalib_stfpm.comparison.conditions import Conditions
from anomalib_stfpm.comparison.contestant import DEFAULT_MODELS, Contestant

__all__ = ["DEFAULT_MODELS", "Conditions", "Contestant", "compare"]
