"""One run of a reproduction: train on one category with one seed, keep the best student, test it."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import LambdaCallback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerStatus

from anomalib_stfpm.checkpoint.safe_io import load_safely
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.reproduction.protocol import Protocol
from anomalib_stfpm.results import environment, finite_json
from anomalib_stfpm.training.student_selection import VAL_ERROR, StudentSelection
from anomalib_stfpm_deploy import files

logger = logging.getLogger(__name__)

RESULT_FILE = "result.json"
STUDENT_CHECKPOINT = "student.ckpt"
RESUME_CHECKPOINT = "model.ckpt"


def run(
    make_model: Callable[[], AnomalibModule],
    protocol: Protocol,
    root: Path,
    category: str,
    seed: int,
    folder: Path,
    on_epoch: Callable[[int], None],
) -> dict[str, Any]:
    """Train and test one category with one seed, resuming an interrupted run.

    Args:
        make_model: Makes the model. It is called after seeding.
        protocol: Training settings.
        root: Folder that holds the category's folder.
        category: Name of the category.
        seed: Seed of the student's weights, the choice of held-out images and the order of the others.
        folder: The run's folder: has the last epoch's checkpoint during training, then the student and the result.
        on_epoch: Called with the number of finished epochs at the start and after every epoch.

    Returns:
        The result, as written to ``result.json``.

    Raises:
        KeyboardInterrupt: If the user interrupts it.
    """
    with quiet():
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
        measured = train_and_test(model, datamodule, protocol, folder, on_epoch)
    result = {
        "category": category,
        "seed": seed,
        **measured,
        "configuration": configuration(model, protocol),
        "environment": environment.describe(),
    }
    finish(folder, result)
    return result


def train_and_test(
    model: AnomalibModule,
    datamodule: AnomalibDataModule,
    protocol: Protocol,
    folder: Path,
    on_epoch: Callable[[int], None],
    *,
    has_test: bool = True,
) -> dict[str, Any]:
    """Train, resuming an interrupted training, write the best student, and test it.

    Returns:
        ``metrics``, ``epoch`` and ``val_error`` of the student, and ``fit_seconds``; ``None`` after an interruption.
    """
    epochs = LambdaCallback(
        on_train_start=lambda trainer, _: on_epoch(trainer.current_epoch),
        on_train_epoch_end=lambda trainer, _: on_epoch(trainer.current_epoch + 1),
    )
    last = ModelCheckpoint(dirpath=folder, filename=Path(RESUME_CHECKPOINT).stem, enable_version_counter=False)
    arguments: dict[str, Any] = {
        "default_root_dir": folder,
        "accelerator": protocol.accelerator,
        "devices": 1,
        "precision": protocol.precision,
        "max_epochs": protocol.max_epochs,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [last, epochs],
    }
    # A model's own arguments come first: PatchCore, for example, must train for one epoch.
    trainer = Trainer(**{**arguments, **model.trainer_arguments})
    checkpoint = _readable(folder / RESUME_CHECKPOINT)
    start = time.perf_counter()
    try:
        trainer.fit(model, datamodule=datamodule, ckpt_path=checkpoint)
        fit_seconds = time.perf_counter() - start
        selection = _selection(trainer)
        with files.replacing(folder / STUDENT_CHECKPOINT) as temporary:
            trainer.save_checkpoint(temporary, weights_only=False)
        metrics = trainer.test(model, datamodule=datamodule, verbose=False)[0] if has_test else {}
    except SystemExit as error:  # Lightning's answer to Ctrl-C
        if trainer.state.status == TrainerStatus.INTERRUPTED:
            raise KeyboardInterrupt from error
        raise
    return {"metrics": metrics, **selection, "fit_seconds": None if checkpoint else round(fit_seconds, 1)}


def finish(folder: Path, result: dict[str, Any]) -> None:
    """Write the result of a run, and remove what it would have resumed from."""
    files.write_text(folder / RESULT_FILE, finite_json.dumps(result))
    for leftover in folder.glob("*.ckpt"):
        if leftover.name != STUDENT_CHECKPOINT:
            leftover.unlink()


def configuration(model: AnomalibModule, protocol: Protocol) -> dict[str, Any]:
    """Describe the model's class path and arguments, and the training settings, as JSON values."""
    description = {
        "model": {
            "class_path": f"{type(model).__module__}.{type(model).__qualname__}",
            "init_args": dict(model.hparams),
        },
        "protocol": asdict(protocol),
    }
    plain: dict[str, Any] = finite_json.plain(description)
    return plain


def _selection(trainer: Trainer) -> dict[str, Any]:
    """Return epoch and error of the student that was kept. Other models than Stfpm keep the last epoch."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    kept = next((callback.state_dict() for callback in callbacks if isinstance(callback, StudentSelection)), {})
    return {"epoch": kept.get("epoch", trainer.current_epoch - 1), VAL_ERROR: kept.get(VAL_ERROR)}


def _readable(checkpoint: Path) -> Path | None:
    """Return the checkpoint to resume from, unless it is missing or was not fully written."""
    if not checkpoint.is_file():
        return None
    try:
        load_safely(checkpoint, "training starts again")
    except ValueError as error:
        logger.warning(str(error))
        return None
    return checkpoint


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what Lightning and anomalib print in every run, which would break up the progress bar."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning_fabric", "anomalib")
    levels = {each: each.level for each in map(logging.getLogger, names)}
    for each in levels:
        each.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for each, level in levels.items():
            each.setLevel(level)
