"""The memory of this process is measured."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs /proc")


PROGRAM = """
import numpy as np
from anomalib_stfpm_deploy import machine
extra = np.ones(2**26, np.uint8)
del extra
print(machine.peak_bytes(), machine.resident_bytes())
"""


def test_the_peak_stays_after_memory_is_freed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    peak, resident = map(int, done.stdout.split())
    assert peak > resident + 2**25
