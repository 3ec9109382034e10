"""The same seed gives the same student, bit for bit, also when training was interrupted and resumed."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.cli import AnomalibCLI
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from torchvision.transforms.v2 import RandomHorizontalFlip

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.registry import THRESHOLD_LOGGER, prepare_command_line
from tests.conftest import CategoryWriter

from .conftest import assert_same, quiet_engine, tiny_model

pytestmark = pytest.mark.integration


class KilledError(RuntimeError):
    """What ends an interrupted training."""


class Kill(Callback):
    """End training in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer: Any, *args: object) -> None:  # noqa: ANN401
        del args
        if trainer.current_epoch == self.epoch:
            raise KilledError


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def fit(
    root: Path,
    teacher_file: Path,
    results: Path,
    seed: int = 0,
    *,
    kill: int | None = None,
    ckpt_path: Path | None = None,
    val_split_mode: str = "from_train",
    num_workers: int = 0,
    schedule: str = "constant",
    **trainer: Any,  # noqa: ANN401
) -> tuple[dict[str, torch.Tensor], Path]:
    """Fit with shuffling and a random augmentation; return the model's state and the checkpoint to go on from."""
    seed_everything(seed)
    datamodule = MVTecLayout(
        root=root, category="part", num_workers=num_workers, train_batch_size=1, val_split_mode=val_split_mode,
        val_split_ratio=0.5, train_augmentations=RandomHorizontalFlip(0.5),
    )  # fmt: skip
    model = tiny_model(teacher_file, schedule=schedule)
    callbacks = [] if kill is None else [Kill(kill)]
    engine = quiet_engine(results, max_epochs=4, callbacks=callbacks, **trainer)
    if kill is None:
        engine.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
    else:
        with pytest.raises(KilledError):
            engine.fit(model, datamodule=datamodule, ckpt_path=ckpt_path)
        assert logging.getLogger(THRESHOLD_LOGGER).filters == []
    return state_of(model), Path(str(engine.best_model_path))


def test_the_same_seed_gives_the_same_student_and_another_seed_another(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    root = write_category("part")
    first, _ = fit(root, teacher_file, tmp_path)
    again, _ = fit(root, teacher_file, tmp_path)
    other, _ = fit(root, teacher_file, tmp_path, seed=1)
    assert_same(first, again)
    assert not torch.equal(first["model.student.backbone.conv1.weight"], other["model.student.backbone.conv1.weight"])


@pytest.mark.parametrize(
    "options",
    [
        {"check_val_every_n_epoch": 2},
        {"val_split_mode": "same_as_test"},
        {"limit_val_batches": 0},
        {"num_workers": 1},
        {"schedule": "one_cycle"},
    ],
)
def test_a_resumed_training_ends_with_the_same_student(
    options: dict[str, Any], write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    root = write_category("part")
    whole, _ = fit(root, teacher_file, tmp_path, **options)
    part, checkpoint = fit(root, teacher_file, tmp_path, kill=2, **options)
    assert not torch.equal(part["model.student.backbone.conv1.weight"], whole["model.student.backbone.conv1.weight"])
    resumed, _ = fit(root, teacher_file, tmp_path, ckpt_path=checkpoint, **options)
    assert_same(resumed, whole)


@pytest.mark.parametrize("seed", [["--seed_everything", "3"], []])
def test_the_command_resumes_from_a_checkpoint_and_tests_its_last_student(
    seed: list[str],
    write_category: CategoryWriter,
    teacher_file: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    prepare_command_line()
    root = write_category("part")

    def train(results: str, *more: str) -> AnomalibCLI:
        return AnomalibCLI([
            "train", *seed, "--model", "anomalib_stfpm.Stfpm",
            "--model.teacher_weights", str(teacher_file), "--model.input_size", "[64, 64]",
            "--data", "MVTecAD", "--data.root", str(root), "--data.category", "part", "--data.num_workers", "0",
            "--data.train_batch_size", "1", "--data.val_split_mode", "from_train", "--data.val_split_ratio", "0.5",
            "--trainer.accelerator", "cpu", "--trainer.max_epochs", "4",
            "--default_root_dir", str(tmp_path / results), *more,
        ])  # fmt: skip

    kill = f"{__name__}.{Kill.__name__}"
    with pytest.raises(KilledError):
        train("part", f"--trainer.callbacks+={kill}", "--trainer.callbacks.epoch=2")
    weights = tmp_path / "part/Stfpm/MVTecAD/part/v0/weights/lightning"
    resumed = train("part", "--ckpt_path", str(weights / "model.ckpt"))
    tested = {name: float(value) for name, value in resumed.engine.trainer.callback_metrics.items()}
    (expected,) = resumed.engine.test(resumed.model, datamodule=resumed.datamodule)
    assert tested == expected, "not the student that training ended with was tested"
    if seed:
        whole = train("whole")
        assert_same(state_of(resumed.model), state_of(whole.model))
        assert tested == {name: float(value) for name, value in whole.engine.trainer.callback_metrics.items()}
    else:  # the split was drawn without a seed, and is that of the checkpoint again
        first = torch.load(weights / "model.ckpt", weights_only=True)["callbacks"]["ExactResume"]["split"]
        last = torch.load(resumed.engine.best_model_path, weights_only=True)["callbacks"]["ExactResume"]["split"]
        assert first == last
        assert "The held-out images are not those" not in caplog.text
