"""Read every image and show it to the teacher once, and train from memory."""

import logging
import math
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import AnomalibDataModule, AnomalibDataset, ImageBatch
from lightning.pytorch.callbacks import Callback
from rich.progress import track
from torch.utils.data import DataLoader

from anomalib_stfpm.backbone.feature_distance import normalised
from anomalib_stfpm.components.pre_processor import PreProcessedBatch, TrainingPreProcessor
from anomalib_stfpm.training import smallest_batch
from anomalib_stfpm.training.cache.byte_budget import AUTO, ByteBudget, budgets, parse_budget
from anomalib_stfpm.training.cache.image_memory import ImageMemory, merged
from anomalib_stfpm.training.cache.unchanging_images import why_images_may_change, why_loader_may_change_them

logger = logging.getLogger(__name__)

TEACHER_CHUNK = {"cpu": 8}
"""Number of images in each batch of the teacher, by type of device.

Convolutions may round differently in batches of different sizes. With one size, an image always has the same features.
"""

_CHUNK_ELSEWHERE = 64
_STAGES = {"train": "train", "validation": "val"}
_LEVEL = "level {}"

Compute = Callable[[torch.Tensor], list[torch.Tensor]]


class FeatureCache(Callback):
    """Train from memory: images are read, pre-processed and shown to the teacher once, before the first epoch.

    Then the dataloaders give numbers of images, in the order that they would give the images in, and the batches are
    gathered from tensors: on the training device if it has room. Images that exceed the budget are computed whenever
    they are in a batch. The tensors live for one fit, so the next fit reads files again. Images are remembered only if
    they are the same in every epoch: a transform that is or may be random turns it off for the images of that stage,
    and the log says so. Each process of a distributed training remembers all images, within its share of the budget.

    Args:
        budget: Bytes of memory, such as ``"2GB"``; ``"auto"`` uses half of the memory that is free when training
            starts, of the device and of the machine, and 0 turns the cache in memory off.
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
        self._replaced: dict[str, Any] = {}
        self._images: dict[str, NumberedImages] = {}

    def fill(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ANN401  # an Stfpm, which imports this
        """Read the images that do not change, show them to the teacher, and let the datamodule give their numbers.

        Raises:
            FileNotFoundError: If the folder does not exist.
            ValueError: If the images are too small to train on.
        """
        if self._folder is not None and not self._folder.is_dir():
            msg = f"cache_dir must be a folder that exists: there is no '{self._folder}'."
            raise FileNotFoundError(msg)
        self._datamodule = getattr(trainer, "datamodule", None)
        room = budgets(self._budget, pl_module.device, trainer.num_devices)
        if isinstance(self._datamodule, AnomalibDataModule):
            self._replace("transfer_batch_to_device", partial(_to_device, self._datamodule.transfer_batch_to_device))
        for stage, name in _STAGES.items():
            dataset = getattr(self._datamodule, f"{name}_data", None)
            if isinstance(dataset, AnomalibDataset):
                self._images[stage] = NumberedImages(
                    dataset, trainer, pl_module, rounded=stage == "train" and not self._exact
                )
            if (self._budget == 0 and self._folder is None) or (dataset is None and stage != "train"):
                continue
            reason = why_images_may_change(trainer, dataset, stage)
            if reason is None:
                make_loader = getattr(self._datamodule, f"{name}_dataloader")
                loader = make_loader()
                reason = why_loader_may_change_them(loader, dataset)
            if reason is not None:
                logger.info("Features of %s images are computed in every epoch, because %s.", stage, reason)
            elif _are_seen_again(trainer, stage, len(loader)):
                if stage == "train":
                    smallest_batch.check_all(loader, pl_module.pre_processor, pl_module.model)
                self._images[stage].remember(stage, room, self._folder)
                loader_of_numbers = partial(_loader_of_numbers, make_loader, self._images[stage])
                self._replace(f"{name}_dataloader", loader_of_numbers)

    def batches(self, stage: str, batch_size: int = 32) -> Iterator[PreProcessedBatch]:
        """Yield all images of the ``"train"`` or ``"validation"`` stage, with the teacher's features, until fit ends.

        They come in the order of the dataset, on the model's device. What is not remembered is read again. Without a
        datamodule of anomalib there are none.
        """
        if stage in self._images:
            for numbers in _in_chunks(len(self._images[stage]), batch_size):
                yield self._images[stage].batch(numbers)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Forget the images and restore the datamodule."""
        del trainer, pl_module, stage
        self._clear()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Forget the images and restore the datamodule also when training fails."""
        del trainer, pl_module, exception
        self._clear()

    def _replace(self, name: str, function: Any) -> None:  # noqa: ANN401
        self._replaced[name] = getattr(self._datamodule, name)
        setattr(self._datamodule, name, function)

    def _clear(self) -> None:
        for name, function in self._replaced.items():
            setattr(self._datamodule, name, function)
        for images in self._images.values():
            images.forget()
        self._replaced, self._images, self._datamodule = {}, {}, None


class NumberedImages:
    """The images of training or validation by number, with the teacher's features, remembered or not."""

    def __init__(self, dataset: AnomalibDataset, trainer: pl.Trainer, pl_module: Any, *, rounded: bool) -> None:  # noqa: ANN401
        self.dataset = dataset
        self._trainer = trainer
        self._module = pl_module
        self._rounded = rounded
        self._memory: ImageMemory | None = None
        self._paths = [str(path) for path in dataset.samples["image_path"]]
        masks = list(dataset.samples.get("mask_path", ()))
        self._mask_paths = masks if masks and all(isinstance(path, str) for path in masks) else None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def remember(self, stage: str, room: Sequence[ByteBudget], folder: Path | None) -> None:
        """Read the images and show them to the teacher, as long as there is room."""
        size = TEACHER_CHUNK.get(self._module.device.type, _CHUNK_ELSEWHERE)
        chunks = _in_chunks(len(self), size)
        shown = f"Reading {len(self)} {stage} images and showing them to the teacher"
        is_hidden = self._trainer.progress_bar_callback is None or not self._trainer.is_global_zero
        batches = _read_ahead(self.dataset, chunks)
        for numbers, batch in zip(chunks, track(batches, shown, len(chunks), disable=is_hidden), strict=False):
            tensors = self._show(batch)
            if self._memory is None:
                self._memory = ImageMemory(len(self), tensors, room, folder)
            self._memory.write(numbers.start, tensors)
            if self._memory.images <= numbers.stop:
                break
        batches.close()

    def batch(self, numbers: Sequence[int]) -> PreProcessedBatch:
        """Make a batch on the model's device."""
        remembered = 0 if self._memory is None else self._memory.images
        inside = [position for position, number in enumerate(numbers) if number < remembered]
        parts = []
        if inside and self._memory is not None:
            parts.append((inside, self._memory.read([numbers[position] for position in inside], self._module.device)))
        if len(inside) < len(numbers):
            outside = [position for position, number in enumerate(numbers) if number >= remembered]
            chunk = [numbers[position] for position in outside]
            parts.append((outside, self._show(next(_read_ahead(self.dataset, [chunk])))))
        tensors: dict[str, Any] = merged(len(numbers), parts)
        pyramid = [tensors.pop(_LEVEL.format(level)) for level in range(len(self._module.model.teacher.layers))]
        paths, mask_paths = (strings and [strings[n] for n in numbers] for strings in (self._paths, self._mask_paths))
        batch = PreProcessedBatch(**tensors, image_path=paths, mask_path=mask_paths)
        batch.teacher_pyramid, batch.source = pyramid, partial(self.batch, numbers)
        return batch

    def forget(self) -> None:
        """Free the memory."""
        if self._memory is not None:
            self._memory.forget()
            self._memory = None

    def _show(self, batch: ImageBatch) -> dict[str, torch.Tensor]:
        """Pre-process images and show them to the teacher."""
        names = [name for name in ("image", "gt_mask", "gt_label") if getattr(batch, name) is not None]
        loaded: dict[str, Any] = {name: getattr(batch, name).to(self._module.device) for name in names}
        processor = self._module.pre_processor
        transform = getattr(processor, "transform", None)
        image, gt_mask = loaded["image"], loaded.get("gt_mask")
        if transform is not None:
            image, gt_mask = transform(image, gt_mask)
        with self._trainer.precision_plugin.forward_context():
            pyramid = _computed(image, self._module.model.teacher_pyramid)
        if self._rounded:
            pyramid = [level.half() for level in pyramid]
        if isinstance(processor, TrainingPreProcessor):  # any other pre-processes every batch
            loaded.update(image=image, gt_mask=gt_mask)
        tensors = {**loaded, **{_LEVEL.format(level): features for level, features in enumerate(pyramid)}}
        return {name: value.as_subclass(torch.Tensor) for name, value in tensors.items() if value is not None}


class ImageNumbers:
    """What a dataloader gives instead of a batch: the numbers of its images."""

    def __init__(self, images: NumberedImages, numbers: list[int]) -> None:
        self._images = images
        self._numbers = numbers

    def batch(self) -> PreProcessedBatch:
        """Make the batch."""
        return self._images.batch(self._numbers)


def teacher_pyramid(batch: ImageBatch, compute: Compute) -> list[torch.Tensor]:
    """Return the teacher's normalised features of a pre-processed batch, from memory or from ``compute``.

    They are one ``(N, C_l, H_l, W_l)`` tensor a level.
    """
    images: Any = batch.image
    return batch.teacher_pyramid if isinstance(batch, PreProcessedBatch) else _computed(images, compute)


def _computed(images: torch.Tensor, compute: Compute) -> list[torch.Tensor]:
    """Compute normalised features, which do not depend on the other images of the batch."""
    size = TEACHER_CHUNK.get(images.device.type)
    if size is None:
        return [normalised(level) for level in compute(images)]
    chunks = []
    for chunk in torch.split(images, size):
        filled = torch.cat([chunk, chunk[-1:].expand(size - len(chunk), -1, -1, -1)])
        chunks.append([normalised(level[: len(chunk)]) for level in compute(filled)])
    return [torch.cat(level) for level in zip(*chunks, strict=True)]


def _are_seen_again(trainer: pl.Trainer, stage: str, batches: int) -> bool:
    """Whether training or validation takes more batches than an epoch has."""
    limit = trainer.limit_train_batches if stage == "train" else trainer.limit_val_batches
    each = min(batches, limit) if isinstance(limit, int) else batches * limit
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs or 0
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps != -1 else math.inf
    return bool(each and min(each * epochs, steps if stage == "train" else math.inf) > batches)


def _loader_of_numbers(make_loader: Callable[[], Any], images: NumberedImages) -> Any:  # noqa: ANN401
    """Make a dataloader that gives the numbers of the images that another one would give."""
    loader = make_loader()
    if why_loader_may_change_them(loader, images.dataset) is not None:
        return loader
    batches: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if loader.batch_size is not None:
        batches = {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    numbers: Any = range(len(images))
    return DataLoader(numbers, collate_fn=partial(ImageNumbers, images), generator=loader.generator, **batches)


def _to_device(move: Callable[..., Any], batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
    """Make the batch of the numbers that a dataloader has given, or move any other batch."""
    return batch.batch() if isinstance(batch, ImageNumbers) else move(batch, device, dataloader_idx)


def _in_chunks(images: int, size: int) -> list[range]:
    return [range(images)[start : start + size] for start in range(0, images, size)]


def _read_ahead(dataset: AnomalibDataset, chunks: Sequence[Sequence[int]]) -> Generator[ImageBatch, None, None]:
    """Read batches of images in threads, on all cores, some images ahead of the batch that is used."""
    cores = torch.get_num_threads()
    waiting: deque[Any] = deque()
    # Each thread computes alone: several threads for each would wait for each other.
    threads = ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,))
    try:
        for chunk in chunks:
            waiting.append([threads.submit(dataset.__getitem__, number) for number in chunk])
            if (len(waiting) - 1) * len(chunk) > cores:
                yield dataset.collate_fn([item.result() for item in waiting.popleft()])
        while waiting:
            yield dataset.collate_fn([item.result() for item in waiting.popleft()])
    finally:
        threads.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # or new threads would compute alone, too
