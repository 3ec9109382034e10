"""A network takes frames of any kind, and keeps Ctrl-C working."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13 as operations

from anomalib_stfpm_deploy.network import Network

# Delete networks in the order of their creation, then press Ctrl-C.
INTERRUPTED = """
import signal, sys
from anomalib_stfpm_deploy.network import Network
first, second = Network(sys.argv[1]), Network(sys.argv[1])
del first
del second
signal.raise_signal(signal.SIGINT)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose score is the highest value of the image."""
    image = operations.parameter([1, 3, 8, 8], np.float32, name="image")
    score, anomaly_map = (operations.reduce_max(image, axes, keep_dims=True) for axes in ([1, 2, 3], [1]))
    score.output(0).set_names({"pred_score"})
    anomaly_map.output(0).set_names({"anomaly_map"})
    openvino.save_model(openvino.Model([score, anomaly_map], [image]), tmp_path / "model.xml")
    return tmp_path / "model.xml"


FRAMES = {
    "8 bits": np.full((20, 30, 3), 51, np.uint8),
    "16 bits": np.full((20, 30, 3), 13107, np.uint16),
    "floating point": np.full((20, 30, 3), 0.2, np.float32),
    "double": np.full((20, 30, 3), 0.2),
    "grey": np.full((20, 30), 51, np.uint8),
    "grey with a channel": np.full((20, 30, 1), 51, np.uint8),
    "RGBA": np.dstack([np.full((20, 30, 3), 51, np.uint8), np.full((20, 30), 255, np.uint8)]),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
def test_a_frame_of_any_kind_has_the_same_score(frame: Any, model: Path) -> None:  # noqa: ANN401
    network = Network(model)
    assert network.predict(network.prepare(frame)).score == pytest.approx(0.2, abs=1e-6)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.zeros((2, 20, 30, 3), np.uint8), r"its shape must be .*: it is \(2, 20, 30, 3\)"),
        (np.zeros((3, 20, 30), np.uint8), r"its shape must be .*: it is \(3, 20, 30\)"),
        (np.zeros((0, 30, 3), np.uint8), r"its shape must be .*: it is \(0, 30, 3\)"),
        (
            np.full((20, 30, 3), 200.0),
            "its floating-point values must be from 0 to 1, without NaN: they are from 200",
        ),
        (np.full((20, 30, 3), 51, np.int64), "its values are of type int64, whose range is not known"),
    ],
)
def test_another_frame_is_rejected_in_one_sentence(frame: Any, reason: str, model: Path) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=f"The image cannot be used: {reason}"):
        Network(model).prepare(frame)


def test_the_weights_that_were_left_behind_are_named(tmp_path: Path) -> None:
    linear = torch.nn.Linear(64, 64)
    torch.onnx.export(linear, (torch.zeros(1, 64),), tmp_path / "model.onnx", external_data=True, verbose=False)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.onnx.data' does not exist: copy it too"):
        Network(tmp_path / "model.onnx")


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has signal stacks")
def test_ctrl_c_interrupts_after_networks_are_deleted(model: Path) -> None:
    run = [sys.executable, "-c", INTERRUPTED, str(model)]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["KeyboardInterrupt"], done.returncode
