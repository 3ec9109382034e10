"""A model for every category: a checkpoint with thresholds and an exported OpenVINO model each, and a table."""

from anomalib_stfpm.train_all.all_categories import train_all

__all__ = ["train_all"]
