"""Remember, while a student is trained, what does not change from epoch to epoch: pictures and teacher features."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from torchvision.tv_tensors import Image

from .byte_budget import AUTO, ByteBudget, bytes_to_use, parse_budget
from .feature_distance import normalised
from .fit_end import FitEnd
from .picture_memory import PictureMemory
from .remembered_dataset import RememberedDataset, picture_paths
from .unchanging_pictures import why_loader_may_change_them, why_pictures_may_change

logger = logging.getLogger(__name__)

TEACHER_CHUNK = 8
"""Number of pictures that the teacher sees at once on a CPU.

Convolutions may round differently in batches of different sizes. With one size, a picture has the same features
whichever batch it is in.
"""

_DATA = {"train": "train_data", "validation": "val_data"}
_IMAGE, _MASK, _LEVEL = "image", "gt_mask", "level {}"

Compute = Callable[[torch.Tensor], list[torch.Tensor]]


class FeatureCache(FitEnd):
    """Give back the resized pictures and teacher features of earlier epochs instead of computing them again.

    It lives for one fit, so a file that has changed by the next fit is read again. It is used only where pictures are
    the same in every epoch: a random transform, or one that is not known to be none, switches it off for the pictures
    that it may change, and a line in the log says so.

    Each process of a distributed training remembers the pictures that it sees, in its share of the budget.

    Args:
        budget: Number of bytes to use, such as ``"2GB"``; ``"auto"`` takes half of the memory that is free when
            training starts, 0 remembers nothing.
        exact: Whether to keep the teacher's features of training pictures in 32 bits instead of 16. Those of validation
            pictures always are, for thresholds come from them.
        folder: Folder for a memory-mapped file with what is beyond the budget; ``None`` computes that in every epoch.

    Raises:
        ValueError: If the budget is not valid.
    """

    def __init__(self, budget: int | str = AUTO, *, exact: bool = False, folder: str | Path | None = None) -> None:
        self._budget = parse_budget(budget)
        self._exact = exact
        self._folder = None if folder is None else Path(folder)
        self._datamodule: Any = None
        self._num_workers: int | None = None
        self._stages: dict[str, _Stage] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stand between the datamodule and its datasets, where pictures do not change.

        Args:
            trainer: The trainer.
            pl_module: The model.

        Raises:
            FileNotFoundError: If the folder does not exist.
        """
        del pl_module
        if self._folder is not None and not self._folder.is_dir():
            msg = f"cache_dir must be a folder that exists: there is no '{self._folder}'."
            raise FileNotFoundError(msg)
        if self._budget == 0 and self._folder is None:
            return
        self._datamodule = getattr(trainer, "datamodule", None)
        budget = ByteBudget(bytes_to_use(self._budget, trainer.num_devices))
        for name, data in _DATA.items():
            dataset: Any = getattr(self._datamodule, data, None)
            if dataset is None and name != "train":
                continue
            reason = why_pictures_may_change(trainer, dataset, name)
            if reason is not None:
                _log_why_not(name, reason)
                continue
            remembered = RememberedDataset(dataset)
            memory = PictureMemory(len(dataset), budget, self._folder)
            self._stages[name] = _Stage(remembered, memory, rounded=name == "train" and not self._exact)
            setattr(self._datamodule, data, remembered)
        self._read_without_workers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether the training dataloader is made as expected.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        self._check("train", trainer.train_dataloader)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look whether the validation dataloader is made as expected.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        self._check("validation", trainer.val_dataloaders)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let no worker process start for nothing when all pictures are remembered.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        self._spare_workers("train", trainer.train_dataloader)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let no worker process start for nothing when all pictures are remembered.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        self._spare_workers("validation", trainer.val_dataloaders)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: ImageBatch, batch_idx: int
    ) -> None:
        """Put remembered pictures into a batch.

        Args:
            trainer: The trainer.
            pl_module: The model.
            batch: Batch with images of shape ``(N, 3, H, W)``, before pre-processing; those that are remembered are
                blank.
            batch_idx: Not used.
        """
        del trainer, pl_module, batch_idx
        self._fill_in("train", batch)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Put remembered pictures into a batch, see :meth:`on_train_batch_start`.

        Args:
            trainer: The trainer.
            pl_module: The model.
            batch: The batch.
            batch_idx: Not used.
            dataloader_idx: Not used.
        """
        del trainer, pl_module, batch_idx, dataloader_idx
        self._fill_in("validation", batch)

    def teacher_pyramid(self, trainer: pl.Trainer, batch: ImageBatch, compute: Compute) -> list[torch.Tensor]:
        """Give the teacher's normalised features of a pre-processed batch, remembered or computed.

        Args:
            trainer: The trainer.
            batch: Batch with images of shape ``(N, 3, H, W)``.
            compute: The teacher.

        Returns:
            One ``(N, C_l, H_l, W_l)`` tensor a level, of 16 bits where features are kept in 16, whether they come from
            memory or not.
        """
        stage = self._stages.get("train" if trainer.training else "validation")
        images: Any = batch.image
        if stage is None:
            return _computed(images, compute)
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        return stage.teacher_pyramid(batch, compute, keep=not is_last_epoch)

    def _fill_in(self, name: str, batch: ImageBatch) -> None:
        if name in self._stages:
            self._stages[name].fill_in(batch)

    def _check(self, name: str, loader: Any) -> None:  # noqa: ANN401
        stage = self._stages.get(name)
        reason = None if stage is None else why_loader_may_change_them(loader, stage.dataset)
        if stage is not None and reason is not None:
            _log_why_not(name, reason)
            stage.forget()
            del self._stages[name]

    def _read_without_workers(self, trainer: pl.Trainer) -> None:
        """Let threads read the pictures on a CPU, where worker processes would compete with the training itself."""
        are_all_remembered = all(
            isinstance(getattr(self._datamodule, data, None), RememberedDataset | None) for data in _DATA.values()
        )
        if self._stages and are_all_remembered and trainer.strategy.root_device.type == "cpu":
            self._num_workers = self._datamodule.num_workers
            self._datamodule.num_workers = 0

    def _spare_workers(self, name: str, loader: Any) -> None:  # noqa: ANN401
        stage = self._stages.get(name)
        if stage is not None and stage.memory.is_complete and not loader.persistent_workers:
            loader.num_workers = 0

    def put_back(self, trainer: pl.Trainer) -> None:
        """Forget everything, and give the datamodule its datasets back.

        Args:
            trainer: Not used.
        """
        del trainer
        for data in _DATA.values():
            dataset = getattr(self._datamodule, data, None)
            if isinstance(dataset, RememberedDataset):
                setattr(self._datamodule, data, dataset.dataset)
        if self._num_workers is not None:
            self._datamodule.num_workers = self._num_workers
            self._num_workers = None
        for stage in self._stages.values():
            stage.forget()
        self._stages = {}
        self._datamodule = None


class _Stage:
    """Training or validation: a dataset, what is remembered of it, and the batch that is on its way to the model."""

    def __init__(self, dataset: RememberedDataset, memory: PictureMemory, *, rounded: bool) -> None:
        self.dataset = dataset
        self.memory = memory
        self._rounded = rounded
        self._loaded: dict[str, torch.Tensor] = {}
        self._levels: list[str] = []

    def fill_in(self, batch: ImageBatch) -> None:
        paths = picture_paths(batch)
        images: Any = batch.image
        known = [position for position, path in enumerate(paths) if path in self.memory]
        known_paths = [paths[position] for position in known]
        if len(known) == len(paths):
            images = batch.image = Image(self.memory.recall(_IMAGE, paths).to(images.device))
        elif known:
            images[known] = self.memory.recall(_IMAGE, known_paths).to(images.device)
        self._loaded = {_IMAGE: images}
        if batch.gt_mask is not None:
            if known:
                batch.gt_mask[known] = self.memory.recall(_MASK, known_paths).to(images.device)
            self._loaded[_MASK] = batch.gt_mask

    def teacher_pyramid(self, batch: ImageBatch, compute: Compute, *, keep: bool) -> list[torch.Tensor]:
        images: Any = batch.image
        paths = picture_paths(batch)
        unknown = [position for position, path in enumerate(paths) if path not in self.memory]
        if not unknown:
            return [level.to(images.device) for level in self._recall(paths)]
        computed = _computed(images[unknown], compute)
        if self._rounded:
            computed = [level.half() for level in computed]
        pyramid = computed
        if len(unknown) < len(paths):
            known = [position for position, path in enumerate(paths) if path in self.memory]
            remembered = self._recall([paths[position] for position in known])
            pyramid = [_merged(known, left, unknown, right) for left, right in zip(remembered, computed, strict=True)]
        if keep:
            self._remember(batch, paths, unknown, computed)
        return pyramid

    def forget(self) -> None:
        self.memory.forget()
        self.dataset.read_all()
        self._loaded.clear()

    def _recall(self, paths: list[str]) -> list[torch.Tensor]:
        return [self.memory.recall(name, paths) for name in self._levels]

    def _remember(self, batch: ImageBatch, paths: list[str], positions: list[int], pyramid: list[torch.Tensor]) -> None:
        self._levels = [_LEVEL.format(level) for level in range(len(pyramid))]
        loaded = {name: tensor[positions].as_subclass(torch.Tensor) for name, tensor in self._loaded.items()}
        new = self.memory.remember(
            [paths[position] for position in positions], {**loaded, **dict(zip(self._levels, pyramid, strict=True))}
        )
        self.dataset.blank_out(new, batch, self._loaded[_IMAGE], self._loaded.get(_MASK))


def _computed(images: torch.Tensor, compute: Compute) -> list[torch.Tensor]:
    """Compute normalised features of pictures, the same ones for a picture whatever is computed beside it."""
    if images.device.type != "cpu":
        return [normalised(level) for level in compute(images)]
    chunks = []
    for chunk in torch.split(images, TEACHER_CHUNK):
        filled = torch.cat([chunk, chunk[-1:].expand(TEACHER_CHUNK - len(chunk), -1, -1, -1)])
        chunks.append([normalised(level[: len(chunk)]) for level in compute(filled)])
    return [torch.cat(level) for level in zip(*chunks, strict=True)]


def _merged(known: list[int], remembered: torch.Tensor, unknown: list[int], computed: torch.Tensor) -> torch.Tensor:
    """Put features of remembered and of other pictures together in the order of the batch."""
    shape = (len(known) + len(unknown), *computed.shape[1:])
    merged = torch.empty(shape, dtype=computed.dtype, device=computed.device, memory_format=torch.channels_last)
    merged[known] = remembered.to(computed.device)
    merged[unknown] = computed
    return merged


def _log_why_not(stage: str, reason: str) -> None:
    logger.info("Features of %s pictures are computed in every epoch, because %s.", stage, reason)
