"""Validate only in the epochs whose result is used."""

import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_stfpm.training.cache.unchanging_images import user_callback
from anomalib_stfpm.training.student_selection import held_out_normal_images

EPOCHS_BETWEEN = 25
"""Epochs between validations; the thresholds of an interrupted training are at most this old."""

_PACKAGE = __name__.partition(".")[0]
_HOOKS = [hook for hook in dir(Callback) if hook.startswith("on_validation")]


class ValidationSchedule(Callback):
    """Validate in every 25th epoch and in the last one, where validation only sets the thresholds.

    That is the case if validation holds test images, as with anomalib's defaults for most datamodules. They choose no
    student, and each validation replaces the thresholds of the one before.

    Validation runs in every epoch, or as often as the trainer is told, if it chooses the student, computes metrics, a
    callback uses it, or training may stop at any time.

    A datamodule without validation images (``val_split_mode=none``) trains without validation, and validates never.
    """

    def __init__(self) -> None:
        self._limit: int | float | None = None
        self._has_images = True

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Train without validation where there are no validation images: anomalib's datamodules would fail."""
        del pl_module, stage
        datamodule = getattr(trainer, "datamodule", None)
        is_anomalibs = isinstance(datamodule, AnomalibDataModule)
        self._has_images = not is_anomalibs or getattr(datamodule, "val_data", None) is not None
        if self._has_images:
            return
        if trainer.state.fn == TrainerFn.VALIDATING:
            msg = "There are no validation images: set the datamodule's val_split_mode to from_train."
            raise ValueError(msg)
        if trainer.state.fn == TrainerFn.FITTING:
            self._limit, trainer.limit_val_batches = trainer.limit_val_batches, 0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check whether epochs may skip validation."""
        if self._has_images:
            self._limit = None if _is_used_in_every_epoch(trainer, pl_module) else trainer.limit_val_batches

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Switch validation on or off for this epoch."""
        del pl_module
        if self._has_images and self._limit is not None and trainer.max_epochs is not None:
            epoch = trainer.current_epoch + 1
            is_used = epoch % EPOCHS_BETWEEN == 0 or epoch >= trainer.max_epochs
            trainer.limit_val_batches = self._limit if is_used else 0

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the trainer's limit."""
        del pl_module
        self._restore_limit(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the trainer's limit also when training fails."""
        del pl_module, exception
        self._restore_limit(trainer)

    def _restore_limit(self, trainer: pl.Trainer) -> None:
        if self._limit is not None:
            trainer.limit_val_batches = self._limit
            self._limit = None


def _is_used_in_every_epoch(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    user_sets_interval = trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1.0
    may_stop_at_any_time = (
        trainer.max_epochs in {None, -1} or trainer.max_steps != -1 or any(isinstance(c, Timer) for c in callbacks)
    )
    chooses_student = bool(held_out_normal_images(trainer)) or any(getattr(c, "monitor", None) for c in callbacks)
    has_metrics = bool(getattr(getattr(pl_module, "evaluator", None), "val_metrics", None))
    is_users_model = type(pl_module).__module__.partition(".")[0] != _PACKAGE
    is_watched = user_callback(trainer, *_HOOKS) is not None or is_users_model
    return user_sets_interval or may_stop_at_any_time or chooses_student or has_metrics or is_watched
