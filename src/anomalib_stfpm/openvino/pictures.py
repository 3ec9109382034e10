"""Pictures for an exported model, as training saw them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import read_image
from torchvision.transforms.v2 import Resize, Transform

from anomalib_stfpm.pre_processor import fixed_size, flat

Picture = npt.NDArray[np.float32]
"""A picture of shape ``(1, 3, H, W)`` with values from 0 to 1."""

CALIBRATION_PICTURES = 300
"""Number of normal training pictures that calibrate; more make no difference to the ranges."""

COMPARED_PICTURES = 500
"""Number of held-out pictures, at most, that two models are compared on."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out picture with what is known of it.

    Args:
        picture: Picture for the model, of shape ``(1, 3, H, W)``.
        label: Whether it has a defect; ``None`` if that is not known.
        mask: Where it has one, of the shape of the model's maps; ``None`` without masks.
    """

    picture: Picture
    label: bool | None
    mask: torch.Tensor | None


class PicturesOf:
    """Pictures of a datamodule, as an exported model takes them.

    Args:
        datamodule: The datamodule.
        transform: What the model pre-processes pictures with.
        model: The exported model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from anomalib_stfpm.data import TextureDemo
        >>> picture = openvino.opset13.parameter([1, 3, 64, 96], np.float32)
        >>> model = openvino.Model([openvino.opset13.relu(picture)], [picture])
        >>> with TemporaryDirectory() as folder:
        ...     pictures = PicturesOf(TextureDemo(folder), None, model)
        ...     next(pictures.test()).picture.shape
        (1, 3, 64, 96)
    """

    def __init__(self, datamodule: AnomalibDataModule, transform: Transform | None, model: openvino.Model) -> None:
        self.datamodule = datamodule
        self.transform = transform
        self.input_size = _input_size(model)
        datamodule.prepare_data()
        datamodule.setup()

    def calibration(self) -> list[Picture]:
        """Read normal training pictures, evenly spread over their names: the same ones every time.

        Returns:
            At most :data:`CALIBRATION_PICTURES` pictures.

        Raises:
            ValueError: If there is no normal training picture.
        """
        samples = self.datamodule.train_data.samples
        paths = sorted(samples.image_path[samples.label_index == 0])
        if not paths:
            msg = "INT8 needs normal training pictures to calibrate with: the datamodule has none."
            raise ValueError(msg)
        return [self._read(paths[index]) for index in _evenly(len(paths), CALIBRATION_PICTURES)]

    def test(self) -> Iterator[HeldOut]:
        """Read test pictures, evenly spread, or validation pictures where there are none.

        Yields:
            At most :data:`COMPARED_PICTURES` pictures.
        """
        dataset = getattr(self.datamodule, "test_data", None) or self.datamodule.val_data
        yield from (self._held_out(dataset[index]) for index in _evenly(len(dataset), COMPARED_PICTURES))

    def validation(self) -> Iterator[HeldOut]:
        """Read all validation pictures.

        Yields:
            The pictures.
        """
        dataset = self.datamodule.val_data
        yield from (self._held_out(dataset[index]) for index in range(len(dataset)))

    def _read(self, path: str | Path) -> Picture:
        return self._as_input(read_image(path, as_tensor=True))

    def _held_out(self, item: Any) -> HeldOut:  # noqa: ANN401  # anomalib types its items by protocols
        mask = item.gt_mask
        if mask is not None and self.transform is not None:
            _, mask = self.transform(item.image, mask)
        label = None if item.gt_label is None else bool(item.gt_label)
        return HeldOut(self._as_input(item.image), label, mask)

    def _as_input(self, picture: Any) -> Picture:  # noqa: ANN401  # a tensor of shape (3, H, W)
        if self.input_size is not None:
            picture = self._resize(picture)
        array: Picture = picture.as_subclass(torch.Tensor).unsqueeze(0).numpy()
        return array

    @property
    def _resize(self) -> Resize:
        resizes = [part for part in flat(self.transform) if isinstance(part, Resize)]
        same = [part for part in resizes if fixed_size(part) == self.input_size]
        return same[-1] if same else Resize(self.input_size, antialias=True)


def _input_size(model: openvino.Model) -> tuple[int, int] | None:
    height, width = list(model.input(0).partial_shape)[-2:]
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None


def _evenly(number: int, wanted: int) -> list[int]:
    return sorted({round(index) for index in np.linspace(0, number - 1, min(number, wanted))})
