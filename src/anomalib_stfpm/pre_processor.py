"""Pre-processing that an exported model does exactly as training did."""

from collections.abc import Iterator
from typing import Any

import torch
from anomalib.pre_processing import PreProcessor
from torchvision.transforms.v2 import Compose, InterpolationMode, Resize, Transform

from .resize import resize_antialiased


class TrainingPreProcessor(PreProcessor):
    """anomalib's pre-processor, but for the exported model, which resizes as training did: with antialiasing.

    anomalib leaves antialiasing out of exported models. Given pictures larger than its input, such a model sees other
    pictures than the ones it was trained with, and its scores and maps differ from those of ``Engine.predict``.
    """

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Pre-process pictures where the model is used without a trainer.

        Args:
            batch: Pictures of shape ``(N, 3, H, W)``.

        Returns:
            Pictures as training sees them, of the size that the transform resizes to.
        """
        if not torch.compiler.is_compiling():
            pictures: torch.Tensor = self.transform(batch) if self.transform else batch
            return pictures
        for transform, exportable in zip(flat(self.transform), flat(self.export_transform), strict=True):
            size = _antialiased_size(transform)
            batch = exportable(batch) if size is None else resize_antialiased(batch, size)
        return batch


def _antialiased_size(transform: Transform) -> tuple[int, int] | None:
    if not isinstance(transform, Resize) or not transform.antialias:
        return None
    # An enumeration or its value, as the version of torchvision has it.
    is_bilinear = transform.interpolation in (InterpolationMode.BILINEAR, InterpolationMode.BILINEAR.value)
    return _pair(transform) if is_bilinear else None


def flat(transform: Any) -> Iterator[Transform]:  # noqa: ANN401  # torchvision gives its attributes no types
    """Take compositions of transforms apart.

    Args:
        transform: A transform, or none.

    Yields:
        The transforms that it is composed of, in their order.

    Example:
        >>> [type(part).__name__ for part in flat(Compose([Compose([Resize(64)]), Resize(32)]))]
        ['Resize', 'Resize']
    """
    if type(transform) is Compose:  # one of another type may do something else
        for part in transform.transforms:
            yield from flat(part)
    elif transform is not None:
        yield transform


def fixed_size(transform: Transform | None) -> tuple[int, int] | None:
    """Find the size that pictures have after they are resized.

    Args:
        transform: What pictures are pre-processed with.

    Returns:
        Height and width in pixels; ``None`` if they are not resized, or to a size that depends on the picture.

    Example:
        >>> fixed_size(Compose([Resize((64, 96))])), fixed_size(Resize(64))
        ((64, 96), None)
    """
    resizes = [part for part in flat(transform) if isinstance(part, Resize)]
    return _pair(resizes[-1]) if resizes else None


def _pair(transform: Resize) -> tuple[int, int] | None:
    size = transform.size
    return (int(size[0]), int(size[1])) if size is not None and len(size) == 2 else None
