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
from anomalib_stfpm.components.pre_processor import PreProcessedBatch
from anomalib_stfpm.training import smallest_batch
from anomalib_stfpm.training.cache.byte_budget import AUTO, ByteBudget, budgets, parse_budget
from anomalib_stfpm.training.cache.image_memory import ImageMemory, Rows
from anomalib_stfpm.training.cache.unchanging_images import why_images_may_change, why_loader_may_change_them

logger = logging.getLogger(__name__)

TEACHER_CHUNK = 8
"""Number of images in each batch of the teacher on a CPU.

Convolutions may round differently in batches of different sizes. With one size, an image always has the same features.
"""

_CHUNK_ON_GPU = 64
_DATA = {"train": "train", "validation": "val"}

Compute = Callable[[torch.Tensor], list[torch.Tensor]]


class FeatureCache(Callback):
    """Train from memory: images are read, pre-processed and shown to the teacher once, before the first epoch.

    Then dataloaders give numbers of images in the order in which they would give the images, and batches are gathered
    from memory: that of the training device if it has room. Images that exceed the budget are computed whenever they
    are in a batch. The memory is for one fit, so the next fit reads files again. It is used only if images are the same
    in every epoch: a transform that is or may be random turns it off for the images of that stage, and the log says
    so. Each process of a distributed training remembers all images, within its share of the budget.

    Args:
        budget: Bytes of memory, such as ``"2GB"``; ``"auto"`` uses half of what is free when training starts, on the
            device and in main memory, 0 turns the cache in memory off.
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

    def fill(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ANN401  # an Stfpm, whose module imports this
        """Remember the images that do not change, and let the datamodule's dataloaders give their numbers.

        Raises:
            FileNotFoundError: If the folder does not exist.
            ValueError: If the images are too small to train on.
        """
        if self._folder is not None and not self._folder.is_dir():
            msg = f"cache_dir must be a folder that exists: there is no '{self._folder}'."
            raise FileNotFoundError(msg)
        self._datamodule = getattr(trainer, "datamodule", None)
        if isinstance(self._datamodule, AnomalibDataModule):
            self._replace("transfer_batch_to_device", partial(_to_device, self._datamodule.transfer_batch_to_device))
        room = budgets(self._budget, pl_module.device, trainer.num_devices)
        for stage, name in _DATA.items():
            dataset = getattr(self._datamodule, f"{name}_data", None)
            if isinstance(dataset, AnomalibDataset):
                is_rounded = stage == "train" and not self._exact
                self._images[stage] = NumberedImages(dataset, trainer, pl_module, rounded=is_rounded)
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
                self._replace(f"{name}_dataloader", partial(_loader_of_numbers, make_loader, self._images[stage]))

    def batches(self, stage: str, batch_size: int = 32) -> Iterator[PreProcessedBatch]:
        """Yield all images of the ``"train"`` or ``"validation"`` stage with the teacher's features, until fit ends.

        They come in the order of the dataset, on the model's device. What is not remembered is read again. There are
        none if the images do not come from a datamodule of anomalib.
        """
        if stage in self._images:
            for numbers in _in_chunks(len(self._images[stage].dataset), batch_size):
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
        self._replaced[name] = vars(self._datamodule).get(name)
        setattr(self._datamodule, name, function)

    def _clear(self) -> None:
        for name, before in self._replaced.items():
            delattr(self._datamodule, name)
            if before is not None:
                setattr(self._datamodule, name, before)
        for images in self._images.values():
            images.forget()
        self._replaced, self._images, self._datamodule = {}, {}, None


class NumberedImages:
    """The images of training or validation by number, with the teacher's features, remembered or not."""

    def __init__(self, dataset: AnomalibDataset, trainer: pl.Trainer, pl_module: Any, *, rounded: bool) -> None:  # noqa: ANN401
        self.dataset = dataset
        self._trainer = trainer
        self._module = pl_module
        self._is_rounded = rounded
        self._rows, self._memory = Rows({}), ImageMemory(0, 0, [])
        self._paths = [str(path) for path in dataset.samples["image_path"]]
        masks = list(dataset.samples.get("mask_path", ()))
        self._mask_paths = masks if masks and all(isinstance(path, str) for path in masks) else None

    def remember(self, stage: str, room: Sequence[ByteBudget], folder: Path | None) -> None:
        """Read the images and show them to the teacher, as long as there is room."""
        size = TEACHER_CHUNK if self._module.device.type == "cpu" else _CHUNK_ON_GPU
        chunks = _in_chunks(len(self.dataset), size)
        batches = _read_ahead(self.dataset, chunks)
        is_hidden = self._trainer.progress_bar_callback is None or not self._trainer.is_global_zero
        said = f"Reading {len(self.dataset)} {stage} images and showing them to the teacher"
        for numbers, batch in zip(chunks, track(batches, said, len(chunks), disable=is_hidden), strict=False):
            rows = self._show(batch)
            if not numbers.start:
                self._memory = ImageMemory(len(self.dataset), rows.shape[1], room, folder)
            self._memory.write(numbers.start, rows)
            if self._memory.images <= numbers.stop:
                break
        batches.close()

    def batch(self, numbers: Sequence[int]) -> PreProcessedBatch:
        """Make a batch on the model's device."""
        rows = self._memory.read(numbers, self._module.device, self._computed)
        tensors: dict[str, Any] = self._rows.unpack(rows)
        pyramid = [tensors.pop(level) for level in self._module.model.teacher.layers]
        paths, mask_paths = (strings and [strings[n] for n in numbers] for strings in (self._paths, self._mask_paths))
        batch = PreProcessedBatch(**tensors, image_path=paths, mask_path=mask_paths)
        batch.teacher_pyramid, batch.source = pyramid, partial(self.batch, numbers)
        return batch

    def forget(self) -> None:
        """Free the memory."""
        self._memory.forget()

    def _computed(self, numbers: list[int]) -> torch.Tensor:
        return self._show(next(_read_ahead(self.dataset, [numbers])))

    def _show(self, batch: ImageBatch) -> torch.Tensor:
        """Pre-process images, show them to the teacher, and return their rows."""
        names = [name for name in ("image", "gt_mask", "gt_label") if getattr(batch, name) is not None]
        tensors: dict[str, Any] = {name: getattr(batch, name).to(self._module.device) for name in names}
        transform = getattr(self._module.pre_processor, "transform", None)
        if transform is not None:
            image, gt_mask = transform(tensors["image"], tensors.get("gt_mask"))
            tensors |= {"image": image} if gt_mask is None else {"image": image, "gt_mask": gt_mask}
        with self._trainer.precision_plugin.forward_context():
            pyramid = _normalised(tensors["image"], self._module.model.teacher_pyramid)
        for level, features in zip(self._module.model.teacher.layers, pyramid, strict=True):
            tensors[level] = features.half() if self._is_rounded else features
        tensors = {name: tensor.as_subclass(torch.Tensor) for name, tensor in tensors.items()}
        self._rows = Rows(tensors)
        return self._rows.pack(tensors)


def teacher_pyramid(batch: ImageBatch, compute: Compute) -> list[torch.Tensor]:
    """Return the teacher's normalised features of a pre-processed batch, from memory or from ``compute``.

    They are one ``(N, C_l, H_l, W_l)`` tensor a level.
    """
    images: Any = batch.image
    return batch.teacher_pyramid if isinstance(batch, PreProcessedBatch) else _normalised(images, compute)


def _normalised(images: torch.Tensor, compute: Compute) -> list[torch.Tensor]:
    """Compute normalised features, which do not depend on the other images of the batch, channels last in memory."""
    size = TEACHER_CHUNK if images.device.type == "cpu" else len(images)
    chunks = []
    for chunk in torch.split(images, size):
        filled = torch.cat([chunk, chunk[-1:].expand(size - len(chunk), -1, -1, -1)])
        chunks.append([normalised(level[: len(chunk)]) for level in compute(filled)])
    # Sums over the channels round differently in another layout.
    return [torch.cat(level).contiguous(memory_format=torch.channels_last) for level in zip(*chunks, strict=True)]


def _are_seen_again(trainer: pl.Trainer, stage: str, batches: int) -> bool:
    """Whether training or validation takes more batches than an epoch has."""
    limit = trainer.limit_train_batches if stage == "train" else trainer.limit_val_batches
    each = min(batches, limit) if isinstance(limit, int) else batches * limit
    epochs = math.inf if trainer.max_epochs in (None, -1) else trainer.max_epochs or 0
    steps = trainer.max_steps * trainer.accumulate_grad_batches if trainer.max_steps != -1 else math.inf
    return bool(each and min(each * epochs, steps if stage == "train" else math.inf) > batches)


def _loader_of_numbers(make_loader: Callable[[], Any], images: NumberedImages) -> Any:  # noqa: ANN401
    """Make a dataloader that gives, of each batch of another one, how to make it by the numbers of its images."""
    loader = make_loader()
    if why_loader_may_change_them(loader, images.dataset) is not None:
        return loader
    batches: dict[str, Any] = {"batch_sampler": loader.batch_sampler}
    if loader.batch_size is not None:
        batches = {"batch_size": loader.batch_size, "sampler": loader.sampler, "drop_last": loader.drop_last}
    numbers: Any = range(len(images.dataset))
    return DataLoader(numbers, collate_fn=partial(_later, images), generator=loader.generator, **batches)


def _later(images: NumberedImages, numbers: list[int]) -> partial[PreProcessedBatch]:
    return partial(images.batch, numbers)


def _to_device(move: Callable[..., Any], batch: Any, device: torch.device, dataloader_idx: int) -> Any:  # noqa: ANN401
    """Make the batch whose numbers a dataloader has given, or move any other one."""
    return batch() if isinstance(batch, partial) else move(batch, device, dataloader_idx)


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
