"""The learning rate follows its schedule through a training, whatever the training's length."""

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.training.schedule import one_cycle
from tests.conftest import CategoryWriter

from .conftest import quiet_engine, tiny_model

pytestmark = pytest.mark.integration

PEAK = 0.8


class Record(Callback):
    """Remember the learning rate of every step."""

    def __init__(self) -> None:
        self.rates: list[float] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:  # noqa: ANN401
        del trainer, pl_module
        self.rates.append(optimizer.param_groups[0]["lr"])


def rates(root: Path, teacher_file: Path, results: Path, schedule: str, **trainer: Any) -> list[float]:  # noqa: ANN401
    model = tiny_model(teacher_file, schedule=schedule, learning_rate=PEAK)
    datamodule = MVTecLayout(root=root, category="part", num_workers=0, train_batch_size=2)
    record = Record()
    quiet_engine(results, callbacks=[record], **trainer).fit(model, datamodule=datamodule)
    return record.rates


@pytest.mark.parametrize(
    ("trainer", "steps"),
    [
        ({"max_epochs": 5}, 10),
        ({"max_epochs": -1, "max_steps": 7}, 7),
        ({"max_epochs": 4, "accumulate_grad_batches": 2}, 4),
    ],
)
def test_one_cycle_spans_the_training(
    trainer: dict[str, Any], steps: int, write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    seen = rates(write_category("part"), teacher_file, tmp_path, "one_cycle", **trainer)
    assert seen == pytest.approx([PEAK * one_cycle(step / steps) for step in range(steps)])


def test_constant_is_constant(write_category: CategoryWriter, teacher_file: Path, tmp_path: Path) -> None:
    assert rates(write_category("part"), teacher_file, tmp_path, "constant", max_epochs=2) == [PEAK] * 4


def test_one_cycle_needs_to_know_the_length_of_training(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="'one_cycle' must know when training ends: give the trainer max_epochs or"):
        rates(write_category("part"), teacher_file, tmp_path, "one_cycle", max_epochs=-1, max_time={"hours": 1})
