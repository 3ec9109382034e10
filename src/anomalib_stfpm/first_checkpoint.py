"""A checkpoint from the start, where training goes on from one."""

import shutil
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from anomalib_stfpm_deploy import files


class FirstCheckpoint(Callback):
    """Have a checkpoint from the start where training goes on.

    A training that goes on writes to a new folder, which anomalib calls ``latest``. Killed in its first epoch, it would
    leave nothing there to go on from.
    """

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
