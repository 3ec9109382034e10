"""On a GPU, convolutions give the same result twice during a training, and are as the user wants them after it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from anomalib_stfpm.training.determinism import SameConvolutions


@pytest.mark.parametrize(("device", "during"), [("cuda", True), ("cpu", False)])
@pytest.mark.parametrize("failed", [False, True])
def test_algorithms_are_chosen_for_a_training_on_a_gpu_and_restored(
    device: str, during: bool, failed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    callback, trainer = SameConvolutions(), SimpleNamespace()
    model: Any = SimpleNamespace(device=torch.device(device))
    callback.on_fit_start(trainer, model)
    assert torch.backends.cudnn.deterministic is during
    if failed:
        callback.on_exception(trainer, model, RuntimeError())
    else:
        callback.on_fit_end(trainer, model)
    assert torch.backends.cudnn.deterministic is False
