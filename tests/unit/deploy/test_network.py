"""A network leaves the process as it was."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from openvino import opset13 as operations

# Networks that end in the order in which they were made, then a Ctrl-C.
INTERRUPTED = """
import signal, sys
from anomalib_stfpm_deploy.network import Network
first, second = Network(sys.argv[1]), Network(sys.argv[1])
del first
del second
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals have a stack of their own on POSIX only")
def test_control_c_interrupts_when_networks_are_gone(tmp_path: Path) -> None:
    picture = operations.parameter([1, 3, 8, 8], np.float32, name="picture")
    score, anomaly_map = (operations.reduce_max(picture, axes, keep_dims=True) for axes in ([1, 2, 3], [1]))
    score.output(0).set_names({"pred_score"})
    anomaly_map.output(0).set_names({"anomaly_map"})
    openvino.save_model(openvino.Model([score, anomaly_map], [picture]), tmp_path / "model.xml")
    run = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "model.xml")]
    done = subprocess.run(run, check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["KeyboardInterrupt"], done.returncode
