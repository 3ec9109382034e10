"""Memory is measured where the system says it."""

from pathlib import Path

import numpy as np
import pytest

from anomalib_stfpm_deploy import machine

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="the system does not say")


def test_the_peak_stays_when_memory_is_given_back() -> None:
    before = machine.peak_bytes() or 0
    extra = np.ones(before // 4, np.float32)  # as much again
    del extra
    peak, resident = machine.peak_bytes(), machine.resident_bytes()
    assert peak is not None
    assert resident is not None
    assert peak > 1.5 * resident
