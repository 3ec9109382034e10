"""A network keeps Ctrl-C working."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as operations

# Delete networks in the order of their creation, then press Ctrl-C.
INTERRUPTED = """
import signal, sys
from anomalib_stfpm_deploy.network import Network
first, second = Network(sys.argv[1]), Network(sys.argv[1])
del first
del second
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(os.name != "posix", reason="only POSIX has signal stacks")
def test_ctrl_c_interrupts_after_networks_are_deleted(tmp_path: Path) -> None:
    image = operations.parameter([1, 3, 8, 8], np.float32, name="image")
    score, anomaly_map = (operations.reduce_max(image, axes, keep_dims=True) for axes in ([1, 2, 3], [1]))
    score.output(0).set_names({"pred_score"})
    anomaly_map.output(0).set_names({"anomaly_map"})
    openvino.save_model(openvino.Model([score, anomaly_map], [image]), tmp_path / "model.xml")
    run = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "model.xml")]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["KeyboardInterrupt"], done.returncode
