"""Training in several processes: one student and one folder."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm.registry import LATEST, link_latest, write_to_folder


class SeveralProcesses(Callback):
    """Share the first process's batch-normalisation statistics and its folder with all processes.

    Distributed training averages gradients, but each process updates its own running statistics. Without this,
    validation and the end of training would see different students. anomalib's command also makes a folder for each
    process and lets ``latest`` point to the last one, which gets no checkpoint.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Let all processes write to the first one's folder."""
        del pl_module, stage
        if trainer.world_size == 1:
            return
        own = Path(trainer.default_root_dir)
        shared = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        if own != shared:
            write_to_folder(trainer, shared)
            with suppress(OSError):
                own.rmdir()  # fails if the folder is not empty
        trainer.strategy.barrier()
        latest = shared.with_name(LATEST)
        if trainer.is_global_zero and not latest.exists():
            link_latest(shared)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Share the statistics before a student is validated."""
        _share_buffers(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Share the statistics of the last student."""
        _share_buffers(trainer, pl_module)


def _share_buffers(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    if trainer.world_size > 1:
        network: Any = pl_module.model
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)
