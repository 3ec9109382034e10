"""What the integration tests share."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine

from anomalib_stfpm import Stfpm
from anomalib_stfpm.openvino.signal_stack import signal_stack_kept

HEARS_CONTROL_C: dict[str, Any] = (
    {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
)
"""For a process that is to hear Ctrl-C, which jobs in the background ignore."""

collect_ignore = ["no_network"]  # importing what is in there, to look for doctests, would cut off all tests


@pytest.fixture(autouse=True)
def _signals_find_a_stack() -> Iterator[None]:
    """Whatever becomes of the networks of a test, the workers of the tests after it end without a crash."""
    with signal_stack_kept():
        yield


def tiny_model(teacher_file: Path, **arguments: Any) -> Stfpm:  # noqa: ANN401
    """A model that is quick to run on tiny pictures."""
    return Stfpm(**{"teacher_weights": teacher_file, "input_size": (64, 64), "visualizer": False, **arguments})


def quiet_engine(root: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    """An engine that shows nothing and trains one epoch, unless told otherwise."""
    defaults = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=root, **{**defaults, **arguments})


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Assert that two states are equal, bit for bit; a threshold that is not set, not a number, equals another one."""
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key].nan_to_num(7), right[key].nan_to_num(7))] == []


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, in this process and those that it starts: as on a disk that is full.

    What writes gets an ``OSError`` after it has written a part.
    """
    resource = pytest.importorskip("resource", reason="the system cannot bound the size of files")
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
