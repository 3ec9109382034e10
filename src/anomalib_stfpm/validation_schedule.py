"""Validate when somebody uses the result."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, Timer

from .fit_end import FitEnd
from .foreign_callbacks import foreign_callback
from .student_selection import held_out_normal_pictures

EPOCHS_BETWEEN = 25
"""How old, in epochs, the thresholds of an interrupted training may be."""

_HOOKS = [hook for hook in dir(Callback) if hook.startswith("on_validation")]


class ValidationSchedule(FitEnd):
    """Validate in every 25th epoch and in the last, where validation only sets the thresholds.

    That is so where validation holds test pictures, as with anomalib's defaults for most datamodules: they choose no
    student, and each validation's thresholds replace those of the one before. Only the last ones are used, unless
    training is interrupted.

    Validation takes place in every epoch, or as often as the trainer is told, where more depends on it: it chooses the
    student or measures something, a callback looks at it, or training may stop at any time.
    """

    def __init__(self) -> None:
        self._limit: int | float | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether validation may be left out.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        self._limit = None if _is_used_in_every_epoch(trainer, pl_module) else trainer.limit_val_batches

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave out the validation of this epoch, or not.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        if self._limit is not None and trainer.max_epochs is not None:
            epoch = trainer.current_epoch + 1
            is_used = epoch % EPOCHS_BETWEEN == 0 or epoch >= trainer.max_epochs
            trainer.limit_val_batches = self._limit if is_used else 0

    def put_back(self, trainer: pl.Trainer) -> None:
        """Leave the trainer as it was.

        Args:
            trainer: The trainer.
        """
        if self._limit is not None:
            trainer.limit_val_batches = self._limit
            self._limit = None


def _is_used_in_every_epoch(trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    user_says_when = trainer.check_val_every_n_epoch != 1 or trainer.val_check_interval != 1.0
    may_stop_at_any_time = (
        trainer.max_epochs in {None, -1} or trainer.max_steps != -1 or any(isinstance(c, Timer) for c in callbacks)
    )
    chooses = bool(held_out_normal_pictures(trainer)) or any(getattr(c, "monitor", None) for c in callbacks)
    measures = bool(getattr(getattr(pl_module, "evaluator", None), "val_metrics", None))
    is_looked_at = foreign_callback(trainer, *_HOOKS) is not None or not type(pl_module).__module__.startswith(
        f"{__package__}."
    )
    return user_says_when or may_stop_at_any_time or chooses or measures or is_looked_at
