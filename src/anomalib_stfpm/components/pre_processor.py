"""The default pre-processor: an exported model resizes images as training did."""

from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import Batch, ImageBatch
from anomalib.data.transforms import ExportableCenterCrop
from anomalib.pre_processing import PreProcessor
from torchvision.transforms import v2
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from anomalib_stfpm.backbone.resize import resize_antialiased

_OTHER_FRAME = (
    v2.CenterCrop, v2.FiveCrop, v2.Pad, v2.RandomCrop, v2.RandomIoUCrop, v2.RandomResizedCrop, v2.RandomZoomOut,
    v2.TenCrop, ExportableCenterCrop,
)  # fmt: skip


class PreProcessedBatch(ImageBatch):
    """A batch of pre-processed images, with what the teacher makes of them.

    Attributes:
        teacher_pyramid: The teacher's normalised features, one ``(N, C_l, H_l, W_l)`` tensor a level.
        source: Makes the same batch again when it is called.
    """

    teacher_pyramid: list[torch.Tensor]
    source: Callable[[], "PreProcessedBatch"]


class TrainingPreProcessor(PreProcessor):
    """anomalib's pre-processor, which keeps antialiasing when the model is exported.

    anomalib drops antialiasing on export. Images larger than the input then look different from those that the model
    was trained on, and scores and maps differ from those of ``Engine.predict``.

    Raises:
        ValueError: If the transform crops or pads images.
    """

    def __init__(self, transform: Transform | None = None) -> None:
        require_whole_image(transform)
        super().__init__(transform)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch[Any], batch_idx: int
    ) -> None:
        """Pre-process a batch, unless it is already."""
        if not isinstance(batch, PreProcessedBatch):
            super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def on_validation_batch_start(  # type: ignore[override]  # as anomalib's
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch[Any], batch_idx: int
    ) -> None:
        """Pre-process a batch, unless it is already."""
        if not isinstance(batch, PreProcessedBatch):
            super().on_validation_batch_start(trainer, pl_module, batch, batch_idx)

    def load_checkpoint_config(self, config: dict[str, Any]) -> None:
        """Restore the transform of a checkpoint."""
        super().load_checkpoint_config(config)
        require_whole_image(self.transform)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Resize and normalise images of shape ``(N, 3, H, W)`` in a model that runs without a trainer."""
        if not torch.compiler.is_compiling():
            images: torch.Tensor = self.transform(batch) if self.transform else batch
            return images
        for transform, exportable in zip(flat(self.transform), flat(self.export_transform), strict=True):
            size = _antialiased_size(transform)
            batch = exportable(batch) if size is None else resize_antialiased(batch, size)
        return batch


def require_whole_image(transform: Transform | None) -> None:
    """Refuse to crop or pad images, for their anomaly maps would be shown stretched over the whole image.

    Raises:
        ValueError: If the transform does.

    Example:
        >>> require_whole_image(Compose([Resize((72, 72)), v2.CenterCrop(64)]))
        Traceback (most recent call last):
        ...
        ValueError: The pre-processor must keep the whole image, or maps lie in the wrong place: remove CenterCrop.
    """
    for part in flat(transform):
        if isinstance(part, _OTHER_FRAME):
            msg = (
                "The pre-processor must keep the whole image, or maps lie in the wrong place: "
                f"remove {type(part).__name__}."
            )
            raise ValueError(msg)


def _antialiased_size(transform: Transform) -> tuple[int, int] | None:
    if not isinstance(transform, Resize) or not transform.antialias:
        return None
    # torchvision stores an enumeration or its value, depending on the version.
    is_bilinear = transform.interpolation in (InterpolationMode.BILINEAR, InterpolationMode.BILINEAR.value)
    return _height_and_width(transform) if is_bilinear else None


def flat(transform: Any) -> Iterator[Transform]:  # noqa: ANN401  # torchvision gives its attributes no types
    """Yield the transforms of nested compositions in order.

    Example:
        >>> [type(part).__name__ for part in flat(Compose([Compose([Resize(64)]), Resize(32)]))]
        ['Resize', 'Resize']
    """
    if type(transform) is Compose:  # a subclass may do something else
        for part in transform.transforms:
            yield from flat(part)
    elif transform is not None:
        yield transform


def fixed_size(transform: Transform | None) -> tuple[int, int] | None:
    """Return the height and width of resized images, or ``None`` if they depend on the image.

    Example:
        >>> fixed_size(Compose([Resize((64, 96))])), fixed_size(Resize(64))
        ((64, 96), None)
    """
    resizes = [part for part in flat(transform) if isinstance(part, Resize)]
    return _height_and_width(resizes[-1]) if resizes else None


def _height_and_width(transform: Resize) -> tuple[int, int] | None:
    size = transform.size
    return (int(size[0]), int(size[1])) if size is not None and len(size) == 2 else None
