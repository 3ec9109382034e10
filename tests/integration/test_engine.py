"""Training, testing and predicting with anomalib's Engine and datamodules."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.cli import AnomalibCLI
from anomalib.data import Folder, MVTecAD
from anomalib.engine import Engine
from anomalib.metrics import AUPRO, AnomalibMetric, Evaluator
from anomalib.pre_processing import PreProcessor
from lightning.pytorch.callbacks import Callback, Timer
from torchvision.transforms.v2 import Resize

from anomalib_stfpm import PublishedPRO, RawEvaluator, Stfpm
from tests.conftest import CategoryWriter

from .conftest import quiet_engine, tiny_model

pytestmark = pytest.mark.integration

ALL_METRICS = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "AUPRO", "PointingGame", "CoveredAUROC"}


@pytest.fixture
def datamodule(write_category: CategoryWriter) -> MVTecAD:
    return MVTecAD(root=write_category("part"), category="part", num_workers=0)


def folder_layout(write: CategoryWriter) -> list[str]:
    folders = [
        "--data.normal_dir",
        "train/good",
        "--data.normal_test_dir",
        "test/good",
        "--data.abnormal_dir",
        "test/bad",
    ]
    masks = ["--data.mask_dir", "ground_truth/bad", "--data.val_split_mode", "same_as_test"]
    return ["Folder", "--data.name", "part", "--data.root", f"{write('part')}/part", *folders, *masks]


def mvtec_layout(write: CategoryWriter) -> list[str]:
    return ["MVTecAD", "--data.root", str(write("bottle")), "--data.category", "bottle"]


def visa_layout(write: CategoryWriter) -> list[str]:
    return ["Visa", "--data.root", str(write("visa_pytorch/candle")), "--data.category", "candle"]


def btech_layout(write: CategoryWriter) -> list[str]:
    return ["BTech", "--data.root", str(write("01", good="ok", bad="ko")), "--data.category", "01"]


@pytest.mark.parametrize("layout", [folder_layout, mvtec_layout, visa_layout, btech_layout])
def test_anomalibs_layouts_train_and_test_with_all_metrics(
    layout: Callable[[CategoryWriter], list[str]], write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    model = ["--model", "anomalib_stfpm.Stfpm", "--model.teacher_weights", str(teacher_file)]
    size = ["--model.input_size", "[64, 64]", "--data.num_workers", "0"]
    short = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", "1", "--default_root_dir", str(tmp_path)]
    cli = AnomalibCLI(["train", *model, "--data", *layout(write_category), *size, *short])
    metrics = {name: value for name, value in cli.engine.trainer.callback_metrics.items() if name in ALL_METRICS}
    assert set(metrics) == ALL_METRICS
    assert all(0 <= value <= 1 for value in metrics.values())


def test_without_masks_pixel_metrics_are_left_out_quietly(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    root = write_category("part") / "part"
    datamodule = Folder(
        name="part", root=root, normal_dir="train/good", abnormal_dir="test/bad", normal_test_dir="test/good",
        num_workers=0,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        (metrics,) = quiet_engine(tmp_path).train(tiny_model(teacher_file), datamodule=datamodule)
    assert set(metrics) == {"image_AUROC", "image_F1Score"}
    complaints = [str(w.message) for w in caught if any(n in str(w.message) for n in ("AUPRO", "AUROC", "F1Score"))]
    assert complaints == []


class StopAtOnce(Callback):
    """Ends training with the first batch."""

    def on_train_batch_start(self, trainer: Any, *args: object) -> None:  # noqa: ANN401
        del args
        trainer.should_stop = True


@pytest.mark.parametrize(
    ("given", "max_epochs"),
    [
        ({}, 100),
        ({"max_epochs": None}, 100),
        ({"max_epochs": 3}, 3),
        ({"max_epochs": 1000}, 1000),
        ({"max_epochs": -1}, -1),
        ({"max_steps": 2}, -1),
        ({"max_time": "00:00:01:00"}, -1),
        ({"callbacks": [Timer("00:00:01:00")]}, -1),
    ],
)
def test_training_takes_100_epochs_unless_the_user_says_how_long(
    given: dict[str, Any], max_epochs: int, datamodule: MVTecAD, teacher_file: Path, tmp_path: Path
) -> None:
    callbacks = [*given.get("callbacks", []), StopAtOnce()]
    engine = Engine(
        default_root_dir=tmp_path,
        accelerator="cpu",
        enable_progress_bar=False,
        limit_train_batches=1,
        limit_val_batches=0,
        **{**given, "callbacks": callbacks},
    )
    engine.fit(tiny_model(teacher_file, schedule="constant"), datamodule=datamodule)
    assert engine.trainer.max_epochs == max_epochs


def test_training_does_not_change_the_teacher(datamodule: MVTecAD, teacher_file: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    model = tiny_model(teacher_file)
    quiet_engine(tmp_path, max_epochs=2).fit(model, datamodule=datamodule)
    expected = load_file(teacher_file)
    trained = model.model.teacher.backbone.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in trained.items())
    assert not torch.equal(model.model.student.backbone.conv1.weight, expected["conv1.weight"])


@pytest.mark.parametrize("action", ["validate", "test", "predict"])
def test_an_untrained_model_is_rejected(action: str, datamodule: MVTecAD, teacher_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"Cannot {action} with an untrained Stfpm"):
        getattr(quiet_engine(tmp_path), action)(tiny_model(teacher_file), datamodule=datamodule)


@pytest.fixture
def trained(datamodule: MVTecAD, teacher_file: Path, tmp_path: Path) -> tuple[Path, dict[str, float]]:
    """A checkpoint whose weights file is gone, of other settings than the defaults, and its test metrics."""
    file = tmp_path / "teacher.safetensors"
    file.write_bytes(teacher_file.read_bytes())
    model = tiny_model(file, layers=[1, 2], map_size=(20, 20), input_size=(96, 96))
    engine = quiet_engine(tmp_path)
    (metrics,) = engine.train(model, datamodule=datamodule)
    file.unlink()
    assert engine.best_model_path is not None
    return Path(engine.best_model_path), dict(metrics)


@pytest.mark.usefixtures("no_network")
def test_a_checkpoint_needs_neither_hub_nor_file_nor_arguments(
    trained: tuple[Path, dict[str, float]], datamodule: MVTecAD, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint, expected = trained
    loaded = Stfpm.load_from_checkpoint(checkpoint)
    assert loaded.model.teacher_is_loaded
    assert loaded.hparams["layers"] == ["layer1", "layer2"]
    fresh = MVTecAD(root=datamodule.root, category="part", num_workers=0)
    (metrics,) = quiet_engine(tmp_path).test(Stfpm(visualizer=False), datamodule=fresh, ckpt_path=checkpoint)
    assert metrics == pytest.approx(expected)
    assert "The checkpoint was trained with layers=['layer1', 'layer2'], map_size=(20, 20)" in caplog.text


def test_a_checkpoint_is_read_once(trained: tuple[Path, dict[str, float]], monkeypatch: pytest.MonkeyPatch) -> None:
    load, reads = torch.load, []

    def counted(file: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        reads.append(file)
        return load(file, *args, **kwargs)

    monkeypatch.setattr(torch, "load", counted)
    Stfpm.load_from_checkpoint(trained[0])
    assert len(reads) == 1


def test_a_checkpoint_does_not_replace_the_evaluator(
    trained: tuple[Path, dict[str, float]], datamodule: MVTecAD, tmp_path: Path
) -> None:
    from anomalib_stfpm.reproduction import evaluator

    fresh = MVTecAD(root=datamodule.root, category="part", num_workers=0)
    model = Stfpm(visualizer=False, evaluator=evaluator())
    (metrics,) = quiet_engine(tmp_path).test(model, datamodule=fresh, ckpt_path=trained[0])
    assert set(metrics) == {"image_AUROC", "pixel_AUROC", "PublishedPRO", "AUPRO"}
    assert metrics["AUPRO"] == pytest.approx(trained[1]["AUPRO"])


@pytest.mark.usefixtures("no_network")
def test_training_goes_on_from_a_checkpoint_without_hub_or_file(
    trained: tuple[Path, dict[str, float]], datamodule: MVTecAD, tmp_path: Path
) -> None:
    model = Stfpm(visualizer=False)
    before = Stfpm.load_from_checkpoint(trained[0]).model.student.state_dict()
    engine = quiet_engine(tmp_path, max_epochs=2)
    engine.fit(model, datamodule=datamodule, ckpt_path=trained[0])
    assert engine.trainer.current_epoch == 2
    assert not torch.equal(model.model.student.state_dict()["backbone.conv1.weight"], before["backbone.conv1.weight"])


def test_a_test_without_thresholds_warns_about_f1(
    datamodule: MVTecAD, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model(teacher_file)
    quiet_engine(tmp_path, limit_val_batches=0).train(model, datamodule=datamodule)
    assert "F1 scores mean nothing" in caplog.text
    caplog.clear()
    quiet_engine(tmp_path).train(model, datamodule=datamodule)
    assert "F1 scores mean nothing" not in caplog.text


@pytest.mark.parametrize("evaluator", [RawEvaluator, lambda metrics: Evaluator(test_metrics=metrics)])
def test_both_conventions_of_pro_work_in_an_evaluator(
    evaluator: Callable[[list[AnomalibMetric]], Evaluator], datamodule: MVTecAD, teacher_file: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    metrics = [PublishedPRO(), AUPRO(fields=["anomaly_map", "gt_mask"])]
    model = tiny_model(teacher_file, evaluator=evaluator(metrics))
    (measured,) = quiet_engine(tmp_path).train(model, datamodule=datamodule)
    assert set(measured) == {"PublishedPRO", "AUPRO"}
    assert all(0 < value <= 1 for value in measured.values())


def test_without_validation_images_the_last_student_is_kept_without_thresholds(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def data(mode: str) -> MVTecAD:
        return MVTecAD(root=write_category("part"), category="part", num_workers=0, val_split_mode=mode)

    model = tiny_model(teacher_file, visualizer=True)
    engine = quiet_engine(tmp_path, max_epochs=2)
    (metrics,) = engine.train(model, datamodule=data("none"))
    assert engine.trainer.current_epoch == 2
    assert 0 <= metrics["image_AUROC"] <= 1
    assert "the last student is kept and no thresholds are set" in caplog.text
    assert engine.predict(model, data_path=tmp_path / "images" / "part" / "test")
    assert "labels mean nothing" in caplog.text
    with pytest.raises(ValueError, match="Cannot export a model without thresholds"):
        model.to_openvino(tmp_path)
    with pytest.raises(ValueError, match="There are no validation images: set the datamodule's val_split_mode"):
        quiet_engine(tmp_path).validate(model, datamodule=data("none"))
    engine.validate(model, datamodule=data("same_as_test"))
    assert model.post_processor.image_threshold.isfinite()


@pytest.mark.parametrize(("size", "batch_size"), [(16, 1), (16, 3), (8, 4)])
def test_images_too_small_to_train_on_are_refused_before_the_first_step(
    size: int, batch_size: int, write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    data = MVTecAD(root=write_category("part"), category="part", num_workers=0, train_batch_size=batch_size)
    model = tiny_model(teacher_file, pre_processor=PreProcessor(Resize((size, size))))
    engine = quiet_engine(tmp_path)
    cause = "is too little for batch normalisation" if size == 16 else "are too small for layer3: make them at least 16"
    with pytest.raises(ValueError, match=f"of {size} x {size} pixels {cause}"):
        engine.fit(model, datamodule=data)
    assert engine.trainer.global_step == 0


def test_one_small_image_in_a_batch_trains_with_more_values_or_more_images(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    for size, batch_size in ((16, 2), (32, 1)):
        data = MVTecAD(root=write_category("part"), category="part", num_workers=0, train_batch_size=batch_size)
        quiet_engine(tmp_path).fit(tiny_model(teacher_file, input_size=(size, size), map_smoothing=0), datamodule=data)


def test_anomalibs_tiling_trains_and_tests(datamodule: MVTecAD, teacher_file: Path, tmp_path: Path) -> None:
    tiling = TilerConfigurationCallback(enable=True, tile_size=64, stride=64)
    model = tiny_model(teacher_file, input_size=(128, 128))
    (metrics,) = quiet_engine(tmp_path, callbacks=[tiling]).train(model, datamodule=datamodule)
    assert model.model.tiler is not None
    assert set(metrics) == ALL_METRICS
