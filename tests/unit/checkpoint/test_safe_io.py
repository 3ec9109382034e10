"""While a training runs, a checkpoint is written at most once a second, and the newest one is never lost."""

from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_stfpm.checkpoint.safe_io import SafeCheckpointIO


def checkpoint(step: int) -> dict[str, Any]:
    return {"step": step, "state_dict": {"weight": torch.full((2,), float(step))}}


def written(path: Path) -> tuple[int, float]:
    read = torch.load(path, weights_only=True)
    return read["step"], float(read["state_dict"]["weight"][0])


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("anomalib_stfpm.checkpoint.safe_io.SECONDS_BETWEEN", 1e6)
    return tmp_path / "model.ckpt"


def test_a_checkpoint_waits_as_it_is_and_is_written_when_the_training_ends(path: Path) -> None:
    plugin = SafeCheckpointIO()
    plugin.start()
    plugin.save_checkpoint(checkpoint(0), path)
    assert written(path) == (0, 0)
    for step in (1, 2):
        given = checkpoint(step)
        plugin.save_checkpoint(given, path)
        given["state_dict"]["weight"].fill_(-1)  # as training does
    plugin.save_checkpoint(checkpoint(7), path.with_name("best.ckpt"))
    assert written(path.with_name("best.ckpt")) == (7, 7)
    assert written(path) == (0, 0)
    plugin.teardown()
    assert written(path) == (2, 2)


def test_no_checkpoint_waits_before_a_training_or_after_it(path: Path) -> None:
    plugin = SafeCheckpointIO()
    for step in (0, 1):
        plugin.save_checkpoint(checkpoint(step), path)
        assert written(path) == (step, step)
    plugin.start()
    plugin.teardown()
    plugin.save_checkpoint(checkpoint(2), path)
    assert written(path) == (2, 2)


def test_a_removed_checkpoint_is_not_written_again(path: Path) -> None:
    plugin = SafeCheckpointIO()
    plugin.start()
    plugin.save_checkpoint(checkpoint(0), path)
    plugin.save_checkpoint(checkpoint(1), path)
    plugin.remove_checkpoint(path)
    plugin.teardown()
    assert not path.exists()
