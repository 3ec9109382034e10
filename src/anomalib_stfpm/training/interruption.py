"""Tell the user of an interrupted training which command resumes it."""

import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

logger = logging.getLogger(__name__)

_COMMANDS, _VERBS = ("anomalib", "anomalib-stfpm"), (["train"], ["fit"])
_CHECKPOINT = "--ckpt_path"


class Interruption(Callback):
    """Print the command that resumes a training after Ctrl-C or SIGTERM, and exit with a failure after SIGTERM."""

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Print how to resume."""
        del pl_module
        if not isinstance(exception, KeyboardInterrupt | SIGTERMException) or trainer.state.fn != TrainerFn.FITTING:
            return
        if isinstance(exception, SIGTERMException):
            exception.code = 128 + signal.SIGTERM  # Lightning sets none, which means success
        if trainer.is_global_zero:
            logger.warning(how_to_go_on(sys.argv, last_checkpoint(trainer)))


def last_checkpoint(trainer: pl.Trainer) -> Path | None:
    """Return the newest checkpoint of this training, or else the one that it resumed from."""
    callbacks = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    named = [[each.last_model_path, each.best_model_path, *each.best_k_models] for each in callbacks]
    written = [Path(path) for paths in named for path in paths if path and Path(path).is_file()]
    if written:
        return max(written, key=lambda path: path.stat().st_mtime_ns)
    return None if trainer.ckpt_path is None else Path(trainer.ckpt_path)


def how_to_go_on(arguments: Sequence[str], checkpoint: Path | None) -> str:
    """Return the sentence that says how to resume; ``arguments`` is the command line, command first."""
    if checkpoint is None:
        return "Interrupted before the first checkpoint was written: training starts from the beginning next time."
    command, *given = arguments
    if Path(command).stem not in _COMMANDS or given[:1] not in _VERBS:
        return f"Interrupted. To go on after the last finished epoch, train with ckpt_path='{checkpoint}'."
    kept = [
        argument
        for before, argument in zip([command, *given], given, strict=False)
        if before != _CHECKPOINT and argument != _CHECKPOINT and not argument.startswith(f"{_CHECKPOINT}=")
    ]
    go_on = shlex.join([Path(command).name, *kept, _CHECKPOINT, str(checkpoint)])
    return f"Interrupted. To go on after the last finished epoch: {go_on}"
