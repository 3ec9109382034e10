"""Whatever becomes of OpenVINO, the next signal finds a stack."""

import subprocess
import sys

import pytest

# Cores that end in the order in which they were made, then a Ctrl-C.
INTERRUPTED = """
import signal
import openvino
from anomalib_stfpm.openvino.signal_stack import signal_stack_kept
def core():
    made = openvino.Core()
    made.get_property("CPU", "FULL_DEVICE_NAME")
    return made
with signal_stack_kept():
    first, second = core(), core()
    del first
    del second
signal.raise_signal(signal.SIGINT)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it is Linux whose stack OpenVINO exchanges")
def test_control_c_interrupts_when_cores_are_gone() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["KeyboardInterrupt"], done.returncode
