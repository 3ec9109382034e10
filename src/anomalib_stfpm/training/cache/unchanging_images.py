"""Decide whether a dataset gives the same images in every epoch, so that they can be cached."""

from typing import Any

import lightning.pytorch as pl
from anomalib.data import AnomalibDataModule, AnomalibDataset
from anomalib.data.transforms import ExportableCenterCrop
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_stfpm.components.pre_processor import flat

# Any other transform may be random.
_DETERMINISTIC = {
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
_KNOWN_PACKAGES = ("anomalib", "anomalib_stfpm", "lightning", "pytorch_lightning")
_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def why_images_may_change(trainer: pl.Trainer, dataset: Any, stage: str) -> str | None:  # noqa: ANN401
    """Return why images of the ``"train"`` or ``"validation"`` stage may change between epochs, or ``None``.

    The reason completes a sentence that ends with "because".
    """
    datamodule = getattr(trainer, "datamodule", None)
    if not isinstance(datamodule, AnomalibDataModule) or not isinstance(dataset, AnomalibDataset):
        return "the images do not come from a datamodule of anomalib"
    if not (_inherits(dataset, AnomalibDataset, "__getitem__") and _inherits(dataset, AnomalibDataset, "collate_fn")):
        return f"{type(dataset).__name__} reads images in its own way"
    model = trainer.lightning_module
    hook = f"on_{stage}_batch_start"
    for one, base, hooks in (
        (datamodule, pl.LightningDataModule, _TRANSFER_HOOKS),
        (model, pl.LightningModule, (*_TRANSFER_HOOKS, hook)),
    ):
        for each in hooks:
            if not _inherits(one, base, each):
                return f"{type(one).__name__} has its own {each}"
    callback = user_callback(trainer, hook)  # also a pre-processor
    if callback is not None:
        return f"the callback {callback} may change them in {hook}"
    pre_processor = getattr(model, "pre_processor", None)
    before_batching = list(flat(dataset.augmentations))
    for transform in [*before_batching, *flat(getattr(pre_processor, "transform", None))]:
        if type(transform) not in _DETERMINISTIC:
            return f"{type(transform).__name__} may change them"
    if not before_batching or not _gives_one_size(before_batching[-1]):
        return "they are not resized to one height and width before they are batched"
    return None


def why_loader_may_change_them(loader: Any, dataset: Any) -> str | None:  # noqa: ANN401
    """Return why a dataloader may change the images of its dataset, or ``None``."""
    expected = dataset.collate_fn
    if not isinstance(loader, DataLoader) or loader.dataset is not dataset:
        return "the dataloader loads another dataset than the datamodule's"
    if loader.collate_fn != expected or loader.batch_sampler is None:
        return "the dataloader makes batches in its own way"
    return None


def user_callback(trainer: pl.Trainer, *hooks: str) -> str | None:
    """Return the class name of a callback of the user's that implements any of the hooks, or ``None``."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        is_users = type(callback).__module__.partition(".")[0] not in _KNOWN_PACKAGES
        implements = (getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks)
        is_given = any(hook in vars(callback) for hook in hooks)  # to Lightning's LambdaCallback
        if is_given or (is_users and any(implements)):
            return type(callback).__name__
    return None


def _inherits(instance: object, base: type, name: str) -> bool:
    return getattr(type(instance), name) is getattr(base, name)


def _gives_one_size(transform: Any) -> bool:  # noqa: ANN401
    return type(transform) is v2.Resize and transform.size is not None and len(transform.size) == 2
