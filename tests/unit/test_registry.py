"""anomalib finds the plugin's class in every way in which it finds its own."""

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
from anomalib.data import get_datamodule
from anomalib.models import get_model, list_models
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from lightning.pytorch import Trainer

import anomalib_stfpm
from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import TextureDemo
from anomalib_stfpm.post_processor import NormalPostProcessor
from anomalib_stfpm.registry import (
    PIPELINE_LOGGERS,
    TILED_ENSEMBLE_MODELS,
    TILED_ENSEMBLE_STATISTICS,
    ensembles_post_process_with,
    failures_of_pipelines,
    honour_seed,
    number_folders_one_by_one,
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


def test_anomalibs_own_class_stays_where_it_was() -> None:
    assert anomalib.models.Stfpm is not Stfpm
    assert anomalib.models.Stfpm.__module__ == "anomalib.models.image.stfpm.lightning_model"


def test_importing_twice_changes_nothing() -> None:
    allowed, classes = set(anomalib.models.ALLOWED_MODULES), AnomalibModule.__subclasses__()
    importlib.reload(anomalib_stfpm)
    assert allowed == anomalib.models.ALLOWED_MODULES
    assert AnomalibModule.__subclasses__() == classes
    assert anomalib_stfpm.Stfpm is Stfpm


def test_the_private_names_that_the_plugin_leans_on_are_where_they_were() -> None:
    assert isinstance(anomalib.models.ALLOWED_MODULES, set), "anomalib has changed how it imports models by class path"
    assert "anomalib_stfpm" in anomalib.models.ALLOWED_MODULES
    assert AnomalibModule.__subclasses__().index(Stfpm) > AnomalibModule.__subclasses__().index(anomalib.models.Stfpm)


def test_datamodules_are_found_by_class_path() -> None:
    datamodule = get_datamodule({"class_path": "anomalib_stfpm.data.TextureDemo", "init_args": {"category": "grass"}})
    assert type(datamodule) is TextureDemo
    assert datamodule.category == "grass"


def test_the_command_lines_seed_is_used() -> None:
    from anomalib.cli import AnomalibCLI

    honour_seed()
    command = ["fit", "--model", "anomalib_stfpm.Stfpm", "--data", "MVTecAD"]
    first, again, other = (AnomalibCLI([*command, "--seed_everything", seed], run=False) for seed in ("5", "5", "6"))
    assert torch.equal(*(cli.model.model.student.backbone.conv1.weight for cli in (first, again)))
    assert not torch.equal(*(cli.model.model.student.backbone.conv1.weight for cli in (first, other)))
    unseeded = [AnomalibCLI(command, run=False).model.model.student.backbone.conv1.weight for _ in range(2)]
    assert not torch.equal(*unseeded)


def test_what_the_plugin_changes_of_the_command_line_is_where_it_was() -> None:
    from anomalib.cli import AnomalibCLI

    honour_seed()
    changed = AnomalibCLI.before_instantiate_classes
    honour_seed()
    assert AnomalibCLI.before_instantiate_classes is changed
    assert changed.__wrapped__.__module__ == "anomalib.cli.cli", "anomalib has changed how its command line is made"


def test_what_the_plugin_changes_of_how_folders_are_numbered_is_where_it_was() -> None:
    engine: Any = anomalib.engine.engine
    changed = engine.create_versioned_dir
    number_folders_one_by_one()
    assert engine.create_versioned_dir is changed
    assert changed.__wrapped__.__module__ == "anomalib.utils.path", "anomalib has changed how it numbers its folders"


def test_the_folder_of_a_trainer_can_be_changed(tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path / "before", logger=False, accelerator="cpu")
    write_to_folder(trainer, tmp_path / "after")
    assert trainer.default_root_dir == str(tmp_path / "after"), "Lightning has changed where a trainer writes"


def test_what_the_tiled_ensemble_is_made_of_is_where_it_was() -> None:
    models, statistics = (import_module(name) for name in (TILED_ENSEMBLE_MODELS, TILED_ENSEMBLE_STATISTICS))
    assert hasattr(models.get_model, "__wrapped__"), "anomalib's tiled ensemble makes its models in another way"
    assert issubclass(statistics.PostProcessor, PostProcessor)
    with ensembles_post_process_with(NormalPostProcessor):
        assert statistics.PostProcessor is NormalPostProcessor
    assert statistics.PostProcessor is PostProcessor
    assert [import_module(name).logger.name for name in PIPELINE_LOGGERS] == list(PIPELINE_LOGGERS)


def test_failures_of_pipelines_are_collected_while_handlers_come_and_go() -> None:
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
