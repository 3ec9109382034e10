"""anomalib finds the plugin's class, and still has the internals that the plugin changes."""

import importlib
import logging
from importlib import import_module
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.engine.engine
import anomalib.models
import pytest
import torch
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.data import get_datamodule
from anomalib.engine import Engine
from anomalib.models import get_model, list_models
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer
from rich.logging import RichHandler

import anomalib_stfpm
from anomalib_stfpm import Stfpm
from anomalib_stfpm.components.post_processor import NormalPostProcessor
from anomalib_stfpm.data import TextureDemo, image_files
from anomalib_stfpm.registry import (
    PIPELINE_LOGGERS,
    TILED_ENSEMBLE_MODELS,
    TILED_ENSEMBLE_STATISTICS,
    chooses_validation_images,
    ensembles_post_process_with,
    failures_of_pipelines,
    lock_folder_numbering,
    prepare_command_line,
    write_to_folder,
)


@pytest.mark.parametrize("name", ["stfpm", "Stfpm"])
def test_a_name_gives_the_plugins_class(name: str) -> None:
    assert type(get_model(name)) is Stfpm


def test_a_class_path_gives_the_plugins_class_with_its_arguments() -> None:
    model = get_model({"class_path": "anomalib_stfpm.Stfpm", "init_args": {"layers": [1, 2], "learning_rate": 0.1}})
    assert type(model) is Stfpm
    assert model.hparams["layers"] == ["layer1", "layer2"]
    assert model.learning_rate == 0.1


def test_the_model_is_listed_once() -> None:
    assert "stfpm" in list_models()
    assert "Stfpm" in list_models(case="pascal")


@pytest.mark.parametrize("class_path", ["anomalib_stfpm.Stfpm", "anomalib_stfpm.lightning_model.Stfpm"])
def test_a_configuration_file_gives_the_plugins_class(class_path: str, tmp_path: Path) -> None:
    config = tmp_path / "model.yaml"
    config.write_text(yaml.safe_dump({"model": {"class_path": class_path, "init_args": {"momentum": 0.5}}}))
    model = AnomalibModule.from_config(config)
    assert type(model) is Stfpm
    assert model.momentum == 0.5


def test_anomalibs_own_class_is_still_there() -> None:
    assert anomalib.models.Stfpm is not Stfpm
    assert anomalib.models.Stfpm.__module__ == "anomalib.models.image.stfpm.lightning_model"


def test_importing_twice_changes_nothing() -> None:
    allowed, classes = set(anomalib.models.ALLOWED_MODULES), AnomalibModule.__subclasses__()
    importlib.reload(anomalib_stfpm)
    assert allowed == anomalib.models.ALLOWED_MODULES
    assert AnomalibModule.__subclasses__() == classes
    assert anomalib_stfpm.Stfpm is Stfpm


def test_anomalib_still_finds_models_as_the_plugin_expects() -> None:
    assert isinstance(anomalib.models.ALLOWED_MODULES, set), "anomalib has changed how it imports models by class path"
    assert "anomalib_stfpm" in anomalib.models.ALLOWED_MODULES
    assert AnomalibModule.__subclasses__().index(Stfpm) > AnomalibModule.__subclasses__().index(anomalib.models.Stfpm)


def test_datamodules_are_found_by_class_path() -> None:
    datamodule = get_datamodule({"class_path": "anomalib_stfpm.data.TextureDemo", "init_args": {"category": "grass"}})
    assert type(datamodule) is TextureDemo
    assert datamodule.category == "grass"


def test_the_command_lines_seed_is_used() -> None:
    prepare_command_line()
    command = ["fit", "--model", "anomalib_stfpm.Stfpm", "--data", "MVTecAD"]
    first, again, other = (AnomalibCLI([*command, "--seed_everything", seed], run=False) for seed in ("5", "5", "6"))
    assert torch.equal(*(cli.model.model.student.backbone.conv1.weight for cli in (first, again)))
    assert not torch.equal(*(cli.model.model.student.backbone.conv1.weight for cli in (first, other)))
    unseeded = [AnomalibCLI(command, run=False).model.model.student.backbone.conv1.weight for _ in range(2)]
    assert not torch.equal(*unseeded)


def test_anomalib_still_has_the_command_line_hook() -> None:
    prepare_command_line()
    changed = AnomalibCLI.before_instantiate_classes
    prepare_command_line()
    assert AnomalibCLI.before_instantiate_classes is changed
    assert changed.__wrapped__.__module__ == "anomalib.cli.cli", "anomalib has moved the hook of its command line"


def test_anomalib_still_numbers_folders_in_the_same_place() -> None:
    engine: Any = anomalib.engine.engine
    changed = engine.create_versioned_dir
    lock_folder_numbering()
    assert engine.create_versioned_dir is changed
    assert changed.__wrapped__.__module__ == "anomalib.utils.path", "anomalib has moved the numbering of its folders"


def test_latest_still_leads_to_the_newest_run_when_the_folder_is_moved(tmp_path: Path) -> None:
    engine: Any = anomalib.engine.engine
    newest = [engine.create_versioned_dir(tmp_path / "before") for _ in range(2)][-1]
    (newest / "metrics.csv").touch()
    (tmp_path / "before").rename(tmp_path / "after")
    assert (tmp_path / "after" / "latest" / "metrics.csv").is_file()


def test_an_export_lies_beside_its_checkpoint_unless_a_folder_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    class Exported(Stfpm):
        @classmethod
        def load_from_checkpoint(cls, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            del args, kwargs
            return cls()

        def to_onnx(self, export_root: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]  # noqa: ANN401
            del args, kwargs
            given.append(export_root)

    monkeypatch.chdir(tmp_path)
    engine = Engine(accelerator="cpu", logger=False)
    run = tmp_path / "v3"
    for checkpoint in (run / "weights/lightning/best.ckpt", tmp_path / "kept/my.ckpt"):
        engine.export(Exported(), "onnx", ckpt_path=checkpoint)
    engine.export(Exported(), "onnx", export_root="mine", ckpt_path=run / "weights/lightning/best.ckpt")
    engine.export(Exported(), "onnx")
    assert list(map(str, given)) == [str(run), str(tmp_path / "kept"), "mine", "results"]


def test_anomalib_still_finds_and_reads_images_in_the_same_places() -> None:
    folder, predict, base, item_visualizer = map(import_module, [
        "anomalib.data.datasets.image.folder", "anomalib.data.predict", "anomalib.data.datasets.base.image",
        "anomalib.visualization.image.item_visualizer",
    ])  # fmt: skip
    ours = image_files
    assert (base.read_image, base.read_mask, predict.read_image) == (ours.read_image, ours.read_mask, ours.read_image)
    assert item_visualizer.Image.open is ours.open_image
    changed = [
        folder._prepare_files_labels, folder.make_folder_dataset, predict.get_image_filenames,
        base.AnomalibDataset.__getitem__, Engine.export,
    ]  # fmt: skip
    assert all(one.__wrapped__.__module__.startswith("anomalib.") for one in changed), "anomalib has moved one"


def test_the_folder_of_a_trainer_can_be_changed(tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path / "before", logger=False, accelerator="cpu")
    write_to_folder(trainer, tmp_path / "after")
    assert trainer.default_root_dir == str(tmp_path / "after"), "Lightning has changed where a trainer writes"


def test_anomalibs_tiled_ensemble_still_has_the_same_parts() -> None:
    models, statistics = (import_module(name) for name in (TILED_ENSEMBLE_MODELS, TILED_ENSEMBLE_STATISTICS))
    assert hasattr(models.get_model, "__wrapped__"), "anomalib's tiled ensemble gets its models elsewhere"
    assert issubclass(statistics.PostProcessor, PostProcessor)
    with ensembles_post_process_with(NormalPostProcessor):
        assert statistics.PostProcessor is NormalPostProcessor
    assert statistics.PostProcessor is PostProcessor
    assert [import_module(name).logger.name for name in PIPELINE_LOGGERS] == list(PIPELINE_LOGGERS)


@pytest.mark.parametrize(
    ("data", "arguments", "is_chosen"),
    [
        ({"init_args": {"val_split_mode": "same_as_test"}}, [], True),
        ({"init_args": {}}, ["--data.val_split_mode=from_test"], True),
        ({"init_args": {}}, ["--data.category=brick"], False),
        (None, [], False),
        ("new_images", [], False),
    ],
)
def test_the_warning_about_validation_images_is_hidden_only_if_they_were_chosen(
    data: object, arguments: list[str], is_chosen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"data": data}))
    monkeypatch.setattr("sys.argv", ["anomalib", "train", *arguments])
    assert chooses_validation_images([file, None]) is is_chosen  # None stands for a configuration given as text


def test_the_command_line_logs_each_line_once() -> None:
    root = logging.getLogger()
    root.addHandler(RichHandler())
    AnomalibCLI(["fit", "--model", "anomalib_stfpm.Stfpm", "--data", "MVTecAD"], run=False)
    assert not [handler for handler in root.handlers if isinstance(handler, RichHandler)]


def test_failures_of_pipelines_are_collected() -> None:
    logger = logging.getLogger(PIPELINE_LOGGERS[0])
    with failures_of_pipelines() as failures:
        logger.handlers.clear()
        logger.info("Running job")
        try:
            raise ValueError("no room")
        except ValueError:
            logger.exception("Error running job.")
    assert [str(failure) for failure in failures] == ["no room"]
    assert logger.filters == []
