"""What the integration tests share."""

from pathlib import Path
from typing import Any

from anomalib.engine import Engine

from anomalib_stfpm import Stfpm

collect_ignore = ["no_network"]  # importing what is in there, to look for doctests, would cut off all tests


def tiny_model(teacher_file: Path, **arguments: Any) -> Stfpm:  # noqa: ANN401
    """A model that is quick to run on tiny pictures."""
    return Stfpm(**{"teacher_weights": teacher_file, "input_size": (64, 64), "visualizer": False, **arguments})


def quiet_engine(root: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    """An engine that shows nothing and trains one epoch, unless told otherwise."""
    defaults = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=root, **{**defaults, **arguments})
