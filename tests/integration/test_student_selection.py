"""Training keeps the student with the lowest error on held-out normal images, and the thresholds of that student."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder
from anomalib.data.utils import ValSplitMode
from anomalib.post_processing import PostProcessor
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.registry import THRESHOLD_LOGGER
from tests.conftest import CategoryWriter

from .conftest import quiet_engine, tiny_model

pytestmark = pytest.mark.integration

THRESHOLDS = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")
NOISE = (0.1, 0.01, 0.05, 0.2)
BEST = 1


class Noise(Callback):
    """Before each validation, make the student the teacher with noise: the amount says how far it errs."""

    def __init__(self, *amounts: float) -> None:
        self.amounts = amounts

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        if trainer.state.fn == "fit":
            model = pl_module.model
            model.student.load_state_dict(model.teacher.state_dict())
            generator = torch.Generator().manual_seed(trainer.current_epoch)
            with torch.no_grad():
                for parameter in model.student.parameters():
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter += self.amounts[trainer.current_epoch] * noise


class Record(Callback):
    """Remember the student, its error and its thresholds after every epoch."""

    def __init__(self) -> None:
        self.students: list[dict[str, torch.Tensor]] = []
        self.errors: list[float] = []
        self.thresholds: list[list[float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        self.students.append({key: value.clone() for key, value in pl_module.model.student.state_dict().items()})
        self.errors.append(float(trainer.callback_metrics["val_error"]))
        self.thresholds.append(thresholds(pl_module))


def thresholds(model: Stfpm) -> list[float]:
    return [float(getattr(model.post_processor, name)) for name in THRESHOLDS]


def held_out(root: Path, **arguments: Any) -> Any:  # noqa: ANN401
    defaults = {"val_split_mode": "from_train", "val_split_ratio": 0.5, "num_workers": 0, "seed": 0}
    return MVTecLayout(root=root, category="part", **{**defaults, **arguments})


def samples_of(dataset: Any) -> list[Any]:  # noqa: ANN401
    return [dataset[index] for index in range(len(dataset))]


def anomaly_maps(model: Any, samples: list[Any]) -> torch.Tensor:  # noqa: ANN401
    model.eval()
    with torch.no_grad():
        return torch.cat([model.model(model.pre_processor(sample.image[None])).anomaly_map for sample in samples])


def same_student(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(left[key], value) for key, value in right.items())


@pytest.fixture
def trained(write_category: CategoryWriter, teacher_file: Path, tmp_path: Path) -> tuple[Any, Record, Any, Any]:
    """A training whose second student is the best, and what was recorded of it."""
    record = Record()
    model = tiny_model(teacher_file)
    engine = quiet_engine(tmp_path, max_epochs=len(NOISE), callbacks=[Noise(*NOISE), record])
    (metrics,) = engine.train(model, datamodule=held_out(write_category("part")))
    return model, record, engine, metrics


def test_the_model_and_its_checkpoints_hold_the_best_student_and_its_thresholds(
    trained: tuple[Any, Record, Any, Any], tmp_path: Path
) -> None:
    model, record, engine, metrics = trained
    assert len(record.errors) == len(NOISE)
    assert min(record.errors) == record.errors[BEST]
    assert same_student(model.model.student.state_dict(), record.students[BEST])
    assert not same_student(model.model.student.state_dict(), record.students[-1])
    assert thresholds(model) == record.thresholds[BEST] != record.thresholds[-1]

    weights = Path(engine.trainer.default_root_dir) / "weights" / "lightning"
    assert sorted(path.name for path in weights.iterdir()) == ["best.ckpt", "model.ckpt"]
    for name in ("best.ckpt", "model.ckpt"):
        loaded = Stfpm.load_from_checkpoint(weights / name)
        assert same_student(loaded.model.student.state_dict(), record.students[BEST])
        assert thresholds(loaded) == record.thresholds[BEST]
        fresh = held_out(engine.trainer.datamodule.root.parent)
        (tested,) = quiet_engine(tmp_path).test(Stfpm(visualizer=False), datamodule=fresh, ckpt_path=weights / name)
        assert tested == metrics
    best_alone = torch.load(weights / "best.ckpt", weights_only=True)["state_dict"]
    assert same_student(
        {key.removeprefix("model.student."): value for key, value in best_alone.items()}, record.students[BEST]
    )


def test_thresholds_are_those_of_the_best_student(trained: tuple[Any, Record, Any, Any], tmp_path: Path) -> None:
    model, _, engine, _ = trained
    expected = thresholds(model)
    for name in THRESHOLDS:
        getattr(model.post_processor, name).fill_(float("nan"))
    quiet_engine(tmp_path).validate(model, datamodule=held_out(engine.trainer.datamodule.root.parent))
    assert thresholds(model) == pytest.approx(expected)


def test_val_error_is_the_mean_of_the_map_over_the_held_out_images(
    trained: tuple[Any, Record, Any, Any], tmp_path: Path
) -> None:
    model, record, engine, _ = trained
    datamodule = held_out(engine.trainer.datamodule.root.parent, eval_batch_size=1)
    engine = quiet_engine(tmp_path)
    engine.validate(model, datamodule=datamodule)
    val_error = float(engine.trainer.callback_metrics["val_error"])
    maps = anomaly_maps(model, samples_of(datamodule.val_data))
    assert val_error == pytest.approx(float(maps.mean()), rel=1e-5)
    assert val_error == pytest.approx(min(record.errors), rel=1e-5)


def test_the_best_student_is_kept_when_training_resumes(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    datamodule = held_out(write_category("part"))
    first, record = quiet_engine(tmp_path, max_epochs=2, callbacks=[Noise(*NOISE)]), Record()
    model = tiny_model(teacher_file)
    first.fit(model, datamodule=datamodule)
    best = {key: value.clone() for key, value in model.model.student.state_dict().items()}
    second = quiet_engine(tmp_path, max_epochs=len(NOISE), callbacks=[Noise(*NOISE), record])
    second.fit(model, datamodule=held_out(datamodule.root.parent), ckpt_path=first.best_model_path)
    assert len(record.errors) == len(NOISE) - 2
    assert same_student(model.model.student.state_dict(), best)


def test_selection_starts_again_with_other_held_out_images(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule, record = held_out(write_category("part")), Record()
    first, model = quiet_engine(tmp_path, max_epochs=1, callbacks=[Noise(0.01)]), tiny_model(teacher_file)
    first.fit(model, datamodule=datamodule)
    (datamodule.root / "train" / "good" / "000.png").rename(datamodule.root / "train" / "good" / "new.png")
    second = quiet_engine(tmp_path, max_epochs=2, callbacks=[Noise(0.01, 0.1), record])
    second.fit(model, datamodule=held_out(datamodule.root.parent, seed=1), ckpt_path=first.best_model_path)
    assert "The held-out images are not those of the interrupted training" in caplog.text
    assert same_student(model.model.student.state_dict(), record.students[0])


def test_synthetic_validation_selects_by_its_normal_images_only(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    datamodule = held_out(write_category("part"), val_split_mode="synthetic")
    engine = quiet_engine(tmp_path)
    model = tiny_model(teacher_file)
    engine.fit(model, datamodule=datamodule)
    labels = datamodule.val_data.samples.label_index
    assert set(labels) == {0, 1}
    maps = anomaly_maps(
        model, [sample for sample, label in zip(datamodule.val_data, labels, strict=True) if label == 0]
    )
    assert float(engine.trainer.callback_metrics["val_error"]) == pytest.approx(float(maps.mean()), rel=1e-5)


@pytest.mark.parametrize("mode", ["same_as_test", "from_test"])
def test_test_images_select_no_student(
    mode: str, write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule = held_out(write_category("part"), val_split_mode=mode)
    engine = quiet_engine(tmp_path, max_epochs=3, callbacks=[Noise(0.1, 0.01, 0.2)])
    model = tiny_model(teacher_file)
    engine.fit(model, datamodule=datamodule)
    weights = Path(engine.trainer.default_root_dir) / "weights" / "lightning"
    last = torch.load(weights / "model.ckpt", weights_only=True)["state_dict"]
    assert same_student(model.state_dict(), last)
    assert [path.name for path in weights.iterdir()] == ["model.ckpt"]
    assert "val_error" not in engine.trainer.callback_metrics
    assert caplog.text.count("the last one is kept") == 1
    assert "val_split_mode to from_train" in caplog.text


def test_test_images_taken_from_training_select_no_student(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    """Where a folder has no good test images, anomalib takes some of the training ones to test with."""
    root = write_category("part") / "part"
    datamodule = Folder(
        name="part", root=root, normal_dir="train/good", test_split_mode="synthetic",
        val_split_mode=ValSplitMode.SAME_AS_TEST, num_workers=0,
    )  # fmt: skip
    engine = quiet_engine(tmp_path)
    engine.fit(tiny_model(teacher_file), datamodule=datamodule)
    assert "test" not in set(datamodule.val_data.samples.split)
    assert "val_error" not in engine.trainer.callback_metrics


def test_the_command_line_selects_and_logs_without_a_warning(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cli = AnomalibCLI([
        "train", "--model", "anomalib_stfpm.Stfpm", "--model.teacher_weights", str(teacher_file),
        "--model.input_size", "[64, 64]", "--data", "MVTecAD", "--data.root", str(write_category("part")),
        "--data.category", "part", "--data.num_workers", "0", "--data.val_split_mode", "from_train",
        "--data.val_split_ratio", "0.5", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2",
        "--default_root_dir", str(tmp_path),
    ])  # fmt: skip
    weights = Path(cli.engine.trainer.default_root_dir) / "weights" / "lightning"
    assert (weights / "best.ckpt").is_file()
    assert "the last one is kept" not in caplog.text
    assert caplog.text.count("does not contain any anomalous images") == 1, "anomalib has changed where it says that"
    assert logging.getLogger(THRESHOLD_LOGGER).filters == []


def test_metrics_are_computed_from_raw_maps(write_category: CategoryWriter, teacher_file: Path, tmp_path: Path) -> None:
    from torchmetrics.functional.classification import binary_auroc

    datamodule = held_out(write_category("part"))
    model = tiny_model(teacher_file, post_processor=PostProcessor())
    engine = quiet_engine(tmp_path, callbacks=[Noise(0.01)])
    (metrics,) = engine.train(model, datamodule=datamodule)
    samples = samples_of(datamodule.test_data)
    raw = anomaly_maps(model, samples).flatten()
    gt_mask = torch.stack([sample.gt_mask for sample in samples]).flatten().int()
    clamped = model.post_processor._normalize(
        raw, model.post_processor.pixel_min, model.post_processor.pixel_max, model.post_processor.pixel_threshold
    )
    assert metrics["pixel_AUROC"] == pytest.approx(float(binary_auroc(raw, gt_mask)), abs=1e-6)
    assert metrics["pixel_AUROC"] != pytest.approx(float(binary_auroc(clamped, gt_mask)), abs=1e-6)
