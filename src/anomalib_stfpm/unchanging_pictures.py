"""Whether a dataset gives the same pictures in every epoch, so that what is computed of them can be remembered."""

from typing import Any

import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.transforms import ExportableCenterCrop
from anomalib.pre_processing import PreProcessor
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from .foreign_callbacks import foreign_callback
from .pre_processor import flat

# Anything else, known as random or not known at all, may change a picture.
_UNCHANGING = {
    v2.CenterCrop,
    v2.Compose,
    v2.Grayscale,
    v2.Identity,
    v2.Normalize,
    v2.Pad,
    v2.Resize,
    v2.RGB,
    v2.ToDtype,
    v2.ToImage,
    v2.ToPureTensor,
    ExportableCenterCrop,
}
_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def why_pictures_may_change(trainer: pl.Trainer, dataset: Any, stage: str) -> str | None:  # noqa: ANN401
    """Find what may change the pictures of a dataset from one epoch to the next, as far as can be known beforehand.

    Args:
        trainer: The trainer, with model, datamodule and callbacks.
        dataset: Training or validation dataset.
        stage: ``"train"`` or ``"validation"``.

    Returns:
        The reason, as the end of a sentence that starts with "because"; ``None`` if nothing does.
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, AnomalibDataModule) or not isinstance(dataset, AnomalibDataset):
        return "the pictures do not come from a datamodule of anomalib"
    if not (_inherits(dataset, AnomalibDataset, "__getitem__") and _inherits(dataset, AnomalibDataset, "collate_fn")):
        return f"{type(dataset).__name__} reads pictures in its own way"
    for hook in _TRANSFER_HOOKS:
        if not _inherits(datamodule, pl.LightningDataModule, hook):
            return f"{type(datamodule).__name__} has its own {hook}"
    pre_processor = getattr(trainer.lightning_module, "pre_processor", None)
    hook = f"on_{stage}_batch_start"
    if pre_processor is not None and not _inherits(pre_processor, PreProcessor, hook):
        return f"the pre-processor {type(pre_processor).__name__} has its own {hook}"
    callback = foreign_callback(trainer, hook)
    if callback is not None:
        return f"the callback {callback} may change them in {hook}"
    before_batching = list(flat(dataset.augmentations))
    for transform in [*before_batching, *flat(getattr(pre_processor, "transform", None))]:
        if type(transform) not in _UNCHANGING:
            return f"{type(transform).__name__} may change them"
    if not before_batching or not _gives_one_size(before_batching[-1]):
        return "they are not resized to one height and width before they are batched"
    return None


def why_loader_may_change_them(loader: Any, dataset: Any) -> str | None:  # noqa: ANN401
    """Find what may change pictures in the dataloader that a datamodule has made.

    Args:
        loader: The dataloader.
        dataset: The dataset that it is to load.

    Returns:
        The reason, as for :func:`why_pictures_may_change`; ``None`` if nothing does.
    """
    expected = dataset.collate_fn
    if not isinstance(loader, DataLoader) or loader.dataset is not dataset:
        return "the dataloader loads another dataset than the datamodule's"
    if loader.collate_fn != expected:
        return "the dataloader makes batches in its own way"
    return None


def _inherits(instance: object, base: type, name: str) -> bool:
    return getattr(type(instance), name) is getattr(base, name)


def _gives_one_size(transform: Any) -> bool:  # noqa: ANN401
    return type(transform) is v2.Resize and transform.size is not None and len(transform.size) == 2
