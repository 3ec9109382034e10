"""The one-cycle schedule equals torch's ``OneCycleLR``."""

import pytest
import torch
from torch.optim.lr_scheduler import OneCycleLR

from anomalib_stfpm.training.schedule import END, START, WARM_UP, one_cycle


def test_one_cycle_equals_torchs_scheduler() -> None:
    steps = 2000
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = OneCycleLR(optimizer, max_lr=1.0, total_steps=steps + 1, cycle_momentum=False)
    for step in range(steps):
        assert one_cycle(step / steps) == pytest.approx(scheduler.get_last_lr()[0], abs=2e-3)
        optimizer.step()
        scheduler.step()


def test_one_cycle_starts_peaks_and_ends_at_its_constants() -> None:
    assert one_cycle(0.0) == pytest.approx(START)
    assert one_cycle(WARM_UP) == pytest.approx(1.0)
    assert one_cycle(1.0) == one_cycle(1.1) == pytest.approx(END)
