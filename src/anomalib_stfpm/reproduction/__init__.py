"""The published results, reproduced: train and test each category as the paper does, and put ours beside them."""

from . import report
from .all_runs import reproduce
from .protocol import Protocol, authors_stfpm, evaluator

__all__ = ["Protocol", "authors_stfpm", "evaluator", "report", "reproduce"]
