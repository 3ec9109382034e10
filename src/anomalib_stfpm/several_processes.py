"""What the processes of a distributed training have in common: student, folder, and every picture counted once."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DistributedSampler

from .registry import LATEST, write_to_folder


class SeveralProcesses(Callback):
    """Give all processes the statistics and the folder of the first.

    Gradients are averaged, but the running statistics of batch normalisation are each process's own until its next
    step: validation, and the training's end, would find students that differ. Started by the command line, each process
    would also have a folder of its own, and ``latest`` would be that of the last, where no checkpoint is.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Agree on the folder.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: What the trainer is about to do.
        """
        del pl_module, stage
        if trainer.world_size == 1:
            return
        own = Path(trainer.default_root_dir)
        shared = Path(trainer.strategy.broadcast(trainer.default_root_dir))
        if own != shared:
            write_to_folder(trainer, shared)
            with suppress(OSError):
                own.rmdir()  # unless there is something in it
        trainer.strategy.barrier()
        latest = shared.with_name(LATEST)
        if trainer.is_global_zero and latest.is_symlink() and not latest.exists():
            latest.unlink()
            latest.symlink_to(shared, target_is_directory=True)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Agree on the statistics before a student is judged.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        _share_buffers(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Agree on the statistics of the last student.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        _share_buffers(trainer, pl_module)


def _share_buffers(trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
    if trainer.world_size > 1:
        network: Any = pl_module.model
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, src=0)


def counted(loaders: Any, batch_idx: int, dataloader_idx: int, pictures: int) -> int:  # noqa: ANN401
    """Count the pictures of a batch that no other process sees.

    Lightning gives all processes equally many pictures: the last ones of a process may be repetitions.

    Args:
        loaders: The trainer's dataloader, or several.
        batch_idx: Number of the batch.
        dataloader_idx: Number of the dataloader.
        pictures: Number of pictures in the batch.

    Returns:
        The number of pictures, from the batch's first on, that are to be counted. All, where there are fewer pictures
        than processes, for none can be left with nothing.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> loader = DataLoader(range(5), batch_size=2, sampler=sampler)
        >>> [(batch.tolist(), counted(loader, number, 0, len(batch))) for number, batch in enumerate(loader)]
        [([1, 3], 2), ([0], 0)]
    """
    loader = loaders[dataloader_idx] if isinstance(loaders, Sequence) else loaders
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.shuffle or sampler.drop_last:
        return pictures
    all_pictures: int = len(sampler.dataset)  # type: ignore[arg-type]
    if all_pictures < sampler.num_replicas:
        return pictures
    own = len(range(sampler.rank, all_pictures, sampler.num_replicas))
    before: int = batch_idx * loader.batch_size
    return min(pictures, max(0, own - before))
