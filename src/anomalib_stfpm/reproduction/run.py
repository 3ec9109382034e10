"""One run of a reproduction: train on a category with a seed, keep the best student, test it."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerStatus

from anomalib_stfpm import environment, finite_json
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.output_folder import read_json
from anomalib_stfpm.student_selection import VAL_ERROR, StudentSelection
from anomalib_stfpm_deploy import files

from .protocol import Protocol

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
STUDENT_CHECKPOINT = "student.ckpt"
RESUME_CHECKPOINT = "model.ckpt"


def read_result(folder: Path) -> dict[str, Any] | None:
    """Read the result of a finished run.

    Args:
        folder: The run's folder.

    Returns:
        The result, or ``None`` if the run is not finished.
    """
    return read_json(folder / RESULT_FILE)


def run(
    make_model: Callable[[], AnomalibModule],
    protocol: Protocol,
    root: Path,
    category: str,
    seed: int,
    folder: Path,
    on_epoch: Callable[[int], None],
) -> dict[str, Any]:
    """Train and test one category with one seed, going on from where an interrupted run was.

    Args:
        make_model: Makes the model; called after the random generators are seeded.
        protocol: How to train.
        root: Folder that holds the category's folder.
        category: The category.
        seed: Seed of the student, the held-out pictures and the order of the others.
        folder: The run's folder. Holds the last epoch's checkpoint while training goes on, and in the end the student
            and the result.
        on_epoch: Called with the number of epochs done, when training starts and after every epoch.

    Returns:
        The result, as it is in ``result.json``.

    Raises:
        KeyboardInterrupt: If the user interrupts it.
    """
    with _quiet():
        seed_everything(seed, workers=True)
        datamodule = MVTecLayout(
            root=root,
            category=category,
            train_batch_size=protocol.train_batch_size,
            eval_batch_size=protocol.eval_batch_size,
            num_workers=protocol.num_workers,
            val_split_mode="from_train",
            val_split_ratio=protocol.val_split_ratio,
            seed=seed,
        )
        model = make_model()
        checkpoint_name = Path(RESUME_CHECKPOINT).stem
        arguments: dict[str, Any] = {
            "default_root_dir": folder,
            "accelerator": protocol.accelerator,
            "devices": 1,
            "precision": protocol.precision,
            "max_epochs": protocol.max_epochs,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [
                ModelCheckpoint(dirpath=folder, filename=checkpoint_name, enable_version_counter=False),
                _Epochs(on_epoch),
            ],
        }
        # A model that insists, such as one that sees every picture once, has its way.
        trainer = Trainer(**{**arguments, **model.trainer_arguments})
        checkpoint = _readable(folder / RESUME_CHECKPOINT)
        start = time.perf_counter()
        try:
            trainer.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
            fit_seconds = time.perf_counter() - start
            selection = _selection(trainer)
            with files.replacing(folder / STUDENT_CHECKPOINT) as temporary:
                trainer.save_checkpoint(temporary, weights_only=False)
            (metrics,) = trainer.test(model, datamodule=datamodule, verbose=False)
        except SystemExit as error:  # what Lightning makes of Ctrl-C
            if trainer.state.status == TrainerStatus.INTERRUPTED:
                raise KeyboardInterrupt from error
            raise
    result = {
        "category": category,
        "seed": seed,
        "metrics": metrics,
        **selection,
        "fit_seconds": None if checkpoint else round(fit_seconds, 1),
        "configuration": configuration(model, protocol),
        "environment": environment.describe(),
    }
    files.write_text(folder / RESULT_FILE, finite_json.dumps(result))
    for leftover in folder.glob("*.ckpt"):
        if leftover.name != STUDENT_CHECKPOINT:
            leftover.unlink()
    return result


def configuration(model: AnomalibModule, protocol: Protocol) -> dict[str, Any]:
    """Describe what is trained and how, in values that JSON knows.

    Args:
        model: The model.
        protocol: How it is trained.

    Returns:
        The model's class path and arguments, and the protocol.
    """
    description = {
        "model": {
            "class_path": f"{type(model).__module__}.{type(model).__qualname__}",
            "init_args": dict(model.hparams),
        },
        "protocol": asdict(protocol),
    }
    plain: dict[str, Any] = finite_json.plain(description)
    return plain


class _Epochs(Callback):
    """Tell how many epochs are done."""

    def __init__(self, on_epoch: Callable[[int], None]) -> None:
        self._on_epoch = on_epoch

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        self._on_epoch(trainer.current_epoch)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        self._on_epoch(trainer.current_epoch + 1)


def _selection(trainer: pl.Trainer) -> dict[str, Any]:
    """Which epoch's student was kept, if the model keeps any but the last."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    kept = next((callback.state_dict() for callback in callbacks if isinstance(callback, StudentSelection)), {})
    return {"epoch": kept.get("epoch", trainer.current_epoch - 1), VAL_ERROR: kept.get(VAL_ERROR)}


def _readable(checkpoint: Path) -> Path | None:
    """The checkpoint to go on from, if there is one and it was not being written when the machine stopped."""
    if not checkpoint.is_file():
        return None
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        logger.warning("'%s' is damaged (%s): training starts again.", checkpoint, error)
        return None
    return checkpoint


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Lightning and anomalib say in every epoch from the progress bar."""
    loggers = [
        logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning_fabric", "anomalib")
    ]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)
