"""Training on a GPU: the same student twice and from every memory, and nothing that waits within an epoch."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from tests.conftest import CategoryWriter, write_image

from .conftest import assert_same, quiet_engine, tiny_model

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]


@pytest.fixture
def root(write_category: CategoryWriter) -> Path:
    root = write_category("part")
    for index in range(4, 12):
        write_image(root / "part" / "train" / "good" / f"{index:03}.png", seed=index)
    return root


def fit(root: Path, teacher_file: Path, results: Path, *callbacks: Callback, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
    """Fit three epochs; return the model's state."""
    seed_everything(0)
    model: Stfpm = tiny_model(teacher_file, **arguments)
    datamodule = MVTecLayout(
        root=root, category="part", num_workers=0, train_batch_size=2, val_split_mode="from_train", val_split_ratio=0.2,
        seed=0,
    )  # fmt: skip
    engine = quiet_engine(results, accelerator="gpu", devices=1, max_epochs=3, callbacks=[*callbacks])
    engine.fit(model, datamodule=datamodule)
    return {key: value.clone() for key, value in model.state_dict().items()}


def test_the_same_seed_gives_the_same_student_twice(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    assert_same(fit(root, teacher_file, tmp_path / "a"), fit(root, teacher_file, tmp_path / "b"))


def test_batches_from_every_memory_give_the_same_student(
    root: Path, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_device = fit(root, teacher_file, tmp_path / "a")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (0, 0))
    assert_same(fit(root, teacher_file, tmp_path / "b"), on_device)
    (tmp_path / "cache").mkdir()
    assert_same(fit(root, teacher_file, tmp_path / "c", cache_budget=0, cache_dir=tmp_path / "cache"), on_device)


class NoWaiting(Callback):
    """Let everything fail that waits for the GPU between the first batch of an epoch and the last."""

    checked = 0

    def on_train_batch_end(self, trainer: Any, *args: object) -> None:  # noqa: ANN401
        del args
        torch.cuda.set_sync_debug_mode("default" if trainer.is_last_batch else "error")
        self.checked += 1

    def on_exception(self, *args: object) -> None:
        del args
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("on_device", [True, False])
def test_nothing_within_an_epoch_waits_for_the_gpu(
    on_device: bool, root: Path, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not on_device:
        monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (0, 0))
    callback = NoWaiting()
    fit(root, teacher_file, tmp_path, callback)
    assert callback.checked == 3 * 5
