"""STFPM beside other models of anomalib on the same pictures: train, measure, time, report."""

from .all_runs import compare
from .conditions import Conditions
from .contestant import DEFAULT_MODELS, Contestant

__all__ = ["DEFAULT_MODELS", "Conditions", "Contestant", "compare"]
