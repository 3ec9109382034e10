"""The one place that leans on how anomalib is made: how it finds models, its command line, what it logs where."""

import logging
import sys
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any

import anomalib.data
import anomalib.engine.engine
import anomalib.models
import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule
from filelock import FileLock
from lightning.pytorch import seed_everything

MODULE = "anomalib_stfpm"
LATEST = "latest"
THRESHOLD_LOGGER = "anomalib.metrics.threshold.f1_adaptive_threshold"


def register_models() -> None:
    """Let anomalib's ``get_model`` import this package by class path.

    anomalib finds a model by its bare name among the direct subclasses of ``AnomalibModule``, the last one first, so
    the plugin's ``Stfpm`` answers to ``get_model("stfpm")`` from the moment it is defined. A class path is imported
    only from the modules that ``ALLOWED_MODULES`` lists.
    """
    anomalib.models.ALLOWED_MODULES.add(MODULE)


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
