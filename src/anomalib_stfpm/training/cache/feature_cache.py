"""Cache the images and teacher features that stay the same from epoch to epoch."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from lightning.pytorch.callbacks import Callback
from torchvision.tv_tensors import Image

from anomalib_stfpm.backbone.feature_distance import normalised
from anomalib_stfpm.training.cache.byte_budget import AUTO, ByteBudget, bytes_to_use, parse_budget
from anomalib_stfpm.training.cache.image_memory import ImageMemory
from anomalib_stfpm.training.cache.remembered_dataset import RememberedDataset, image_paths
from anomalib_stfpm.training.cache.unchanging_images import why_images_may_change, why_loader_may_change_them

logger = logging.getLogger(__name__)

TEACHER_CHUNK = 8
"""Number of images in each batch of the teacher on a CPU.

Convolutions may round differently in batches of different sizes. With one size, an image always has the same features.
"""

_DATA = {"train": "train_data", "validation": "val_data"}
_IMAGE, _MASK, _LEVEL = "image", "gt_mask", "level {}"

Compute = Callable[[torch.Tensor], list[torch.Tensor]]


class FeatureCache(Callback):
    """Reuse the resized images and teacher features of earlier epochs.

    The cache lives for one fit, so the next fit reads files again. It is used only if images are the same in every
    epoch: a transform that is or may be random turns it off for the images of that stage, and the log says so. Each
    process of a distributed training caches the images that it sees, within its share of the budget.

    Args:
        budget: Bytes of memory, such as ``"2GB"``; ``"auto"`` uses half of the memory that is free when training
            starts, 0 turns the cache in memory off.
        exact: Whether to store teacher features of training images in 32 bits instead of 16. Those of validation
            images always are, because thresholds depend on them.
        folder: Folder of a memory-mapped file for images that exceed the budget; ``None`` computes them in every epoch.

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
        """Wrap the datasets whose images do not change."""
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
            reason = why_images_may_change(trainer, dataset, name)
            if reason is not None:
                _log_why_not(name, reason)
                continue
            remembered = RememberedDataset(dataset)
            memory = ImageMemory(len(dataset), budget, self._folder)
            self._stages[name] = _Stage(remembered, memory, rounded=name == "train" and not self._exact)
            setattr(self._datamodule, data, remembered)
        self._read_without_workers(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the training dataloader."""
        del pl_module
        self._check("train", trainer.train_dataloader)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the validation dataloader."""
        del pl_module
        self._check("validation", trainer.val_dataloaders)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start no workers in the next epoch if all training images are cached."""
        del pl_module
        self._stop_workers("train", trainer.train_dataloader)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start no workers in the next epoch if all validation images are cached."""
        del pl_module
        self._stop_workers("validation", trainer.val_dataloaders)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: ImageBatch, batch_idx: int
    ) -> None:
        """Fill in the cached images of a batch before it is pre-processed."""
        del trainer, pl_module, batch_idx
        if "train" in self._stages:
            self._stages["train"].fill_in(batch)

    def on_validation_batch_start(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Fill in the cached images of a batch before it is pre-processed."""
        del trainer, pl_module, batch_idx, dataloader_idx
        if "validation" in self._stages:
            self._stages["validation"].fill_in(batch)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Empty the cache and restore the datamodule."""
        del trainer, pl_module
        self._clear()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Empty the cache and restore the datamodule also when training fails."""
        del trainer, pl_module, exception
        self._clear()

    def teacher_pyramid(self, trainer: pl.Trainer, batch: ImageBatch, compute: Compute) -> list[torch.Tensor]:
        """Return the teacher's normalised features of a pre-processed batch, from the cache or from ``compute``.

        They are one ``(N, C_l, H_l, W_l)`` tensor a level, rounded to 16 bits, cached or not, if the cache stores 16.
        """
        stage = self._stages.get("train" if trainer.training else "validation")
        images: Any = batch.image
        if stage is None:
            return _computed(images, compute)
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        return stage.teacher_pyramid(batch, compute, keep=not is_last_epoch)

    def _check(self, name: str, loader: Any) -> None:  # noqa: ANN401
        stage = self._stages.get(name)
        reason = None if stage is None else why_loader_may_change_them(loader, stage.dataset)
        if stage is not None and reason is not None:
            _log_why_not(name, reason)
            stage.forget()
            del self._stages[name]

    def _read_without_workers(self, trainer: pl.Trainer) -> None:
        """Read images in threads on a CPU: worker processes would compete with training."""
        all_are_cached = all(
            isinstance(getattr(self._datamodule, data, None), RememberedDataset | None) for data in _DATA.values()
        )
        if self._stages and all_are_cached and trainer.strategy.root_device.type == "cpu":
            self._num_workers = self._datamodule.num_workers
            self._datamodule.num_workers = 0

    def _stop_workers(self, name: str, loader: Any) -> None:  # noqa: ANN401
        stage = self._stages.get(name)
        if stage is not None and stage.memory.is_complete and not loader.persistent_workers:
            loader.num_workers = 0

    def _clear(self) -> None:
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
    """The dataset, the cache and the current batch of training or validation."""

    def __init__(self, dataset: RememberedDataset, memory: ImageMemory, *, rounded: bool) -> None:
        self.dataset = dataset
        self.memory = memory
        self._rounded = rounded
        self._loaded: dict[str, torch.Tensor] = {}
        self._levels: list[str] = []

    def fill_in(self, batch: ImageBatch) -> None:
        paths = image_paths(batch)
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
        paths = image_paths(batch)
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
    """Compute normalised features, which do not depend on the other images of the batch."""
    if images.device.type != "cpu":
        return [normalised(level) for level in compute(images)]
    chunks = []
    for chunk in torch.split(images, TEACHER_CHUNK):
        filled = torch.cat([chunk, chunk[-1:].expand(TEACHER_CHUNK - len(chunk), -1, -1, -1)])
        chunks.append([normalised(level[: len(chunk)]) for level in compute(filled)])
    return [torch.cat(level) for level in zip(*chunks, strict=True)]


def _merged(known: list[int], remembered: torch.Tensor, unknown: list[int], computed: torch.Tensor) -> torch.Tensor:
    """Merge features of cached and of other images in the order of the batch."""
    shape = (len(known) + len(unknown), *computed.shape[1:])
    merged = torch.empty(shape, dtype=computed.dtype, device=computed.device, memory_format=torch.channels_last)
    merged[known] = remembered.to(computed.device)
    merged[unknown] = computed
    return merged


def _log_why_not(stage: str, reason: str) -> None:
    logger.info("Features of %s images are computed in every epoch, because %s.", stage, reason)
