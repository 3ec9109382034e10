"""An epoch is validated only when its result is used."""

from pathlib import Path
from typing import Any

import pytest
from anomalib.metrics import AUROC, Evaluator
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm.data import MVTecLayout
from tests.conftest import CategoryWriter

from .conftest import quiet_engine, tiny_model

pytestmark = pytest.mark.integration

EPOCHS = 7
EPOCHS_BETWEEN = 5


@pytest.fixture
def validated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The epochs that have been validated, counted from 1."""
    epochs: list[int] = []

    def record(self: Any, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        del self, pl_module
        epochs.append(trainer.current_epoch + 1)

    monkeypatch.setattr("anomalib_stfpm.lightning_model.StudentSelection.on_validation_start", record, raising=False)
    return epochs


class Look(Callback):
    """A callback that looks at validation."""

    def on_validation_end(self, *args: object) -> None:
        del args


EVERY = list(range(1, EPOCHS + 1))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [EPOCHS_BETWEEN, EPOCHS]),
        ({"data": {"val_split_mode": "from_train"}}, EVERY),
        ({"model": {"evaluator": Evaluator(val_metrics=[AUROC(fields=["pred_score", "gt_label"])])}}, EVERY),
        ({"trainer": {"callbacks": [Look()]}}, EVERY),
        ({"trainer": {"check_val_every_n_epoch": 3}}, [3, 6]),
        ({"trainer": {"max_time": {"hours": 1}}}, EVERY),
        ({"trainer": {"max_steps": EPOCHS, "max_epochs": -1}}, EVERY),
        ({"trainer": {"limit_val_batches": 0}}, []),
    ],
)
def test_an_epoch_is_validated_only_when_its_result_is_used(
    options: dict[str, Any], expected: list[int], write_category: CategoryWriter, teacher_file: Path, tmp_path: Path,
    validated: list[int], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("anomalib_stfpm.training.validation_schedule.EPOCHS_BETWEEN", EPOCHS_BETWEEN)
    model = tiny_model(teacher_file, **options.get("model", {}))
    datamodule = MVTecLayout(
        root=write_category("part"), category="part", num_workers=0, train_batch_size=4, **options.get("data", {})
    )
    engine = quiet_engine(tmp_path, **{"max_epochs": EPOCHS, **options.get("trainer", {})})
    engine.fit(model, datamodule=datamodule)
    assert validated == expected
    assert engine.trainer.limit_val_batches == options.get("trainer", {}).get("limit_val_batches", 1.0)


def test_thresholds_are_those_of_the_last_epoch(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    model = tiny_model(teacher_file)
    datamodule = MVTecLayout(root=write_category("part"), category="part", num_workers=0)
    engine = quiet_engine(tmp_path, max_epochs=3)
    engine.fit(model, datamodule=datamodule)
    after_fit = [float(value) for value in model.post_processor.buffers()]
    engine.validate(model, datamodule=datamodule)
    assert [float(value) for value in model.post_processor.buffers()] == pytest.approx(after_fit, rel=1e-4)
