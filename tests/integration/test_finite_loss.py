"""A loss that is not finite stops training before the optimiser learns from it, and the message says why."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import save_file

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from tests.conftest import BACKBONE, CategoryWriter, random_weights

from .conftest import assert_same, quiet_engine, tiny_model

pytestmark = pytest.mark.integration

ON_16_BITS = {"plugins": [MixedPrecision("16-mixed", "cpu")]}
ON_BF16 = {"precision": "bf16-mixed"}
TOO_FEW_BITS = 1e5
"""Times features that float16 can hold, features that it cannot."""


class AtBatch(Callback):
    """Do something to the model or a batch when an epoch's first batch is there, and remember the weights."""

    def __init__(self, epoch: int, do: Any) -> None:  # noqa: ANN401
        self.epoch = epoch
        self.do = do
        self.weights: dict[str, torch.Tensor] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
        if trainer.current_epoch == self.epoch and batch_idx == 0:
            self.do(pl_module, batch)
        self.weights = weights_of(pl_module)


def weights_of(model: Stfpm) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.model.student.named_parameters()}


def fit(model: Stfpm, root: Path, results: Path, *callbacks: Callback, **trainer: Any) -> Any:  # noqa: ANN401
    engine = quiet_engine(results, callbacks=[*callbacks], **{"max_epochs": 3, **trainer})
    datamodule = MVTecLayout(root=root, category="part", num_workers=0, train_batch_size=2)
    engine.fit(model, datamodule=datamodule)
    return engine


def scale_features(model: Stfpm, batch: object) -> None:
    del batch
    with torch.no_grad():
        model.model.student.backbone.layer2[1].bn2.weight.fill_(TOO_FEW_BITS)


def ruin_image(model: Stfpm, batch: Any) -> None:  # noqa: ANN401
    del model
    batch.image[1, 0, 5, 5] = torch.inf


def ruin_weight(model: Stfpm, batch: object) -> None:
    del batch
    with torch.no_grad():
        model.model.student.backbone.layer3[0].conv1.weight[0, 0, 0, 0] = torch.nan


@pytest.mark.parametrize(
    ("do", "precision", "level", "reason"),
    [
        (ruin_image, {}, "layer1", r"good/00\d\.png' is not finite once it is pre-processed"),
        (ruin_image, ON_BF16, "layer1", r"good/00\d\.png' is not finite once it is pre-processed"),
        (ruin_image, ON_16_BITS, "layer1", r"good/00\d\.png' is not finite once it is pre-processed"),
        (ruin_weight, {}, "layer3", "the student's weights have grown beyond all bounds; train with a lower"),
        (ruin_weight, ON_BF16, "layer3", "the student's weights have grown beyond all bounds; train with a lower"),
        (scale_features, ON_16_BITS, "layer2", "too large for 16 bits; train with another precision, bf16-mixed or 32"),
    ],
)
def test_the_error_names_epoch_level_and_reason_and_the_weights_are_unchanged(
    do: Any,  # noqa: ANN401
    precision: dict[str, Any],
    level: str,
    reason: str,
    write_category: CategoryWriter,
    teacher_file: Path,
    tmp_path: Path,
) -> None:
    model, callback = tiny_model(teacher_file), AtBatch(1, do)
    with pytest.raises(ValueError, match=rf"^The loss of epoch 1 is nan, at level '{level}' of .*: .*{reason}"):
        fit(model, write_category("part"), tmp_path, callback, **precision)
    assert_same(weights_of(model), callback.weights)


class Fused(Stfpm):
    """A model with the optimiser that a GPU has."""

    def configure_optimizers(self) -> Any:  # noqa: ANN401
        return torch.optim.SGD(self.model.student.parameters(), lr=0.4, momentum=0.9, fused=True)


class Steps(Callback):
    """Count the batches."""

    number = 0

    def on_train_batch_end(self, *args: object) -> None:
        del args
        self.number += 1


def test_where_looking_takes_time_losses_are_checked_at_the_end_of_an_epoch_and_the_weights_are_unchanged(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalib_stfpm.training.finite_loss._looking_waits", lambda device: device.type == "cpu")
    monkeypatch.setattr("anomalib_stfpm.training.cache.unchanging_images.user_callback", lambda *_: None)
    model: Any = Fused(teacher_weights=teacher_file, input_size=(64, 64), visualizer=False)
    callback, steps = AtBatch(1, ruin_weight), Steps()
    with pytest.raises(ValueError, match=r"^The loss of epoch 1 is nan, at level 'layer3' .* the student's weights"):
        fit(model, write_category("part"), tmp_path, callback, steps)
    assert steps.number == 2 * 2, "the epoch did not end"
    assert_same(weights_of(model), callback.weights)
    (checkpoint,) = tmp_path.rglob("model.ckpt")
    assert torch.load(checkpoint, weights_only=True)["epoch"] == 0


def test_a_teacher_with_weights_that_are_not_finite_is_named(write_category: CategoryWriter, tmp_path: Path) -> None:
    weights = random_weights(BACKBONE)
    weights["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    save_file(weights, tmp_path / "teacher.safetensors")
    model = tiny_model(tmp_path / "teacher.safetensors")
    with pytest.raises(
        ValueError, match=r"epoch 0 is nan, at level 'layer2' of .* the teacher's weights are not finite"
    ):
        fit(model, write_category("part"), tmp_path)


def test_a_learning_rate_that_is_too_high_is_named(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    model = tiny_model(teacher_file, learning_rate=1e20)
    with pytest.raises(ValueError, match=r"the student's weights have grown .*; train with a lower learning_rate"):
        fit(model, write_category("part"), tmp_path)


def test_features_too_large_for_float16_train_in_bf16(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    engine = fit(tiny_model(teacher_file), write_category("part"), tmp_path, AtBatch(1, scale_features), **ON_BF16)
    assert engine.trainer.current_epoch == 3


def test_a_scaled_gradient_that_overflows_is_skipped_and_no_error(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler)]
    engine = fit(tiny_model(teacher_file), write_category("part"), tmp_path, plugins=plugins, max_epochs=1)
    assert engine.trainer.global_step == 2
    assert scaler.get_scale() < 2.0**40
