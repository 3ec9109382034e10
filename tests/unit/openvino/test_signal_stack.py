"""Ctrl-C works after OpenVINO cores were deleted in any order."""

import subprocess
import sys

import pytest

# Delete cores in the order in which they were made, then press Ctrl-C.
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


@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO changes the signal stack on Linux only")
def test_control_c_interrupts_after_cores_are_deleted() -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], check=False, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1:] == ["KeyboardInterrupt"], done.returncode
