"""The one place that leans on how anomalib is made: how it finds models, its command line, what it logs where."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.engine.engine
import anomalib.models
import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from filelock import FileLock
from lightning.pytorch import seed_everything
from omegaconf import OmegaConf

MODULE = "anomalib_stfpm"
LATEST = "latest"
TILED_ENSEMBLE_MODELS = "anomalib.pipelines.tiled_ensemble.components.utils.helper_functions"
TILED_ENSEMBLE_STATISTICS = "anomalib.pipelines.tiled_ensemble.components.stats_calculation"
PIPELINE_LOGGERS = (
    "anomalib.pipelines.components.runners.serial",
    "anomalib.pipelines.components.runners.parallel",
    "anomalib.pipelines.components.base.pipeline",
)
THRESHOLD_LOGGER = "anomalib.metrics.threshold.f1_adaptive_threshold"


def register_models() -> None:
    """Let anomalib's ``get_model`` import this package by class path.

    anomalib finds a model by its bare name among the direct subclasses of ``AnomalibModule``, the last one first, so
    the plugin's ``Stfpm`` answers to ``get_model("stfpm")`` from the moment it is defined. A class path is imported
    only from the modules that ``ALLOWED_MODULES`` lists.
    """
    anomalib.models.ALLOWED_MODULES.add(MODULE)


def give_components_to_configured_models() -> None:
    """Let anomalib's ``get_model`` give components to a model whose configuration has arguments.

    The tiled ensemble gives every model a pre-processor. ``get_model`` puts it among the arguments, in a container of
    OmegaConf's that takes plain values only, unless it is told otherwise.
    """
    get_model = anomalib.models.get_model
    if hasattr(get_model, "__wrapped__"):
        return

    @wraps(get_model)
    def get_model_with_components(model: Any, *args: Any, **kwdargs: Any) -> AnomalibModule:  # noqa: ANN401
        if isinstance(model, dict) and kwdargs:
            model = OmegaConf.create(model, flags={"allow_objects": True})
        return get_model(model, *args, **kwdargs)

    for module in ("anomalib.models", TILED_ENSEMBLE_MODELS):
        if module in sys.modules:  # who has imported the function has one of its own
            sys.modules[module].get_model = get_model_with_components  # type: ignore[attr-defined]


def register_datamodule(datamodule: type[AnomalibDataModule]) -> None:
    """Let anomalib's ``get_datamodule``, and so its benchmark pipeline, find a datamodule of this package.

    ``get_datamodule`` drops the module of a class path and looks the class up in ``anomalib.data``.

    Args:
        datamodule: The class to make known.
    """
    setattr(anomalib.data, datamodule.__name__, datamodule)


def honour_seed() -> None:
    """Let anomalib's command line do what it says of ``--seed_everything``.

    anomalib 2.7 takes the option and does not use it. Its class is changed only where something has imported it: the
    import would change how Python prints errors.
    """
    cli: Any = getattr(sys.modules.get("anomalib.cli.cli"), "AnomalibCLI", None)
    if cli is None or hasattr(cli.before_instantiate_classes, "__wrapped__"):
        return
    before_instantiate_classes = cli.before_instantiate_classes

    @wraps(before_instantiate_classes)
    def seed_before_instantiate_classes(self: Any) -> None:  # noqa: ANN401
        seed = (self.config.get(self.config["subcommand"]) or {}).get("seed_everything")
        if isinstance(seed, int) and not isinstance(seed, bool):
            seed_everything(seed, workers=True)
        before_instantiate_classes(self)

    cli.before_instantiate_classes = seed_before_instantiate_classes


def number_folders_one_by_one() -> None:
    """Let trainings that start at the same moment get folders of their own.

    anomalib looks for the highest version and makes the next one: another training may do so in between, and one of
    them fails.
    """
    engine: Any = anomalib.engine.engine
    create_versioned_dir = engine.create_versioned_dir
    if hasattr(create_versioned_dir, "__wrapped__"):
        return

    @wraps(create_versioned_dir)
    def create_alone(root_dir: str | Path) -> Path:
        folder = Path(root_dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".versions.lock")
        with suppress(NotImplementedError, OSError):  # on a file system without locks it is as it was
            lock.acquire()
        try:
            created: Path = create_versioned_dir(root_dir)
        finally:
            lock.release()
        return created

    engine.create_versioned_dir = create_alone


def write_to_folder(trainer: pl.Trainer, folder: Path) -> None:
    """Change the folder that a trainer writes to.

    Lightning's ``default_root_dir`` can only be read.

    Args:
        trainer: The trainer.
        folder: The folder.
    """
    trainer._default_root_dir = str(folder)  # type: ignore[attr-defined]


@contextmanager
def failures_of_pipelines() -> Iterator[list[BaseException]]:
    """Collect what fails in anomalib's pipelines, which say that something has, and go on.

    They take the handlers of all loggers away, but not their filters.

    Yields:
        What has been raised so far, in order.
    """
    failures: list[BaseException] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            failures.append(record.exc_info[1])
        return True

    loggers = [logging.getLogger(name) for name in PIPELINE_LOGGERS]
    for logger in loggers:
        logger.addFilter(collect)
    try:
        yield failures
    finally:
        for logger in loggers:
            logger.removeFilter(collect)


@contextmanager
def ensembles_post_process_with(post_processor: type[PostProcessor]) -> Iterator[None]:
    """Let anomalib's tiled ensemble take thresholds and normalisation from another post-processor than anomalib's.

    Args:
        post_processor: Its class.

    Yields:
        Nothing.
    """
    statistics: Any = import_module(TILED_ENSEMBLE_STATISTICS)
    before = statistics.PostProcessor
    statistics.PostProcessor = post_processor
    try:
        yield
    finally:
        statistics.PostProcessor = before


class OncePerFit(logging.Filter):
    """Let each message of anomalib's adaptive threshold through once, until it is removed.

    Where validation holds normal pictures only, anomalib says so twice in every epoch.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether a message is new.

        Args:
            record: The message.

        Returns:
            Whether to log it.
        """
        is_new = record.getMessage() not in self._said
        self._said.add(record.getMessage())
        return is_new

    def install(self) -> None:
        """Start to filter."""
        logging.getLogger(THRESHOLD_LOGGER).addFilter(self)

    def remove(self) -> None:
        """Stop to filter."""
        logging.getLogger(THRESHOLD_LOGGER).removeFilter(self)
