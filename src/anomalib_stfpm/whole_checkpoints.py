"""Checkpoints that are written whole or not at all, so that the last good one is never lost."""

import io
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from anomalib_stfpm_deploy import files


class WholeCheckpointIO(AnomalibCheckpointIO):
    """Write a checkpoint beside the one that it replaces, and replace that when all is on the disk.

    Lightning writes to the system's temporary folder and moves the file. Where that folder is on another disk, moving
    is copying: killed meanwhile, or on a full disk, it leaves half a checkpoint in the place of a good one.
    """

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401
    ) -> None:
        """Write a checkpoint.

        Args:
            checkpoint: What to write.
            path: The file. What is not a path of this machine is left to Lightning.
            storage_options: Not used, as in Lightning.

        Raises:
            OSError: If it cannot be written; the file is then as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        # In memory first, as Lightning does: torch.save would not say why a file cannot be written.
        written = io.BytesIO()
        torch.save(checkpoint, written)
        with files.replacing(Path(path)) as temporary:
            temporary.write_bytes(written.getbuffer())


class WholeCheckpoints(Callback):
    """Let the trainer write its checkpoints whole, and have one from the start where training goes on.

    A training that goes on writes to a new folder, which anomalib calls ``latest``. Killed in its first epoch, it would
    leave nothing there to go on from.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Take the place of what anomalib or Lightning writes checkpoints with, but not of what the user has given.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: What the trainer is about to do.
        """
        del pl_module, stage
        given = trainer.strategy.checkpoint_io
        if type(given) in (TorchCheckpointIO, AnomalibCheckpointIO):
            trainer.strategy.checkpoint_io = WholeCheckpointIO(getattr(given, "extra_safe_globals", None))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the checkpoint that training goes on from to where the next one will replace it.

        Args:
            trainer: The trainer.
            pl_module: The model.

        Raises:
            OSError: If it cannot be written.
        """
        del pl_module
        callback = trainer.checkpoint_callback
        if not isinstance(callback, ModelCheckpoint) or trainer.ckpt_path is None:
            return
        before, after = Path(trainer.ckpt_path), Path(callback.format_checkpoint_name({}))
        if before.is_file() and before.name == after.name and before.parent.resolve() != after.parent.resolve():
            if trainer.is_global_zero:
                with files.replacing(after) as temporary:
                    shutil.copyfile(before, temporary)
            callback.best_model_path = str(after)  # or it would count versions up
