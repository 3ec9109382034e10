"""Images for an exported model, pre-processed as in training."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino
import torch
from anomalib.data import AnomalibDataModule
from torchvision.transforms.v2 import Resize, Transform

from anomalib_stfpm.components.pre_processor import fixed_size, flat
from anomalib_stfpm.data.image_files import read_image

ImageArray = npt.NDArray[np.float32]
"""An image of shape ``(1, 3, H, W)`` with values from 0 to 1."""

CALIBRATION_IMAGES = 300
"""Most normal training images to calibrate with; more do not change the ranges."""

COMPARED_IMAGES = 500
"""Most held-out images to compare two models on."""


@dataclass(frozen=True)
class HeldOut:
    """A held-out image, whether it has a defect (``None``: not known), and its mask in the shape of the maps."""

    image: ImageArray
    label: bool | None
    mask: torch.Tensor | None


class ImagesOf:
    """Images of a datamodule, in the size that an exported model takes.

    Args:
        datamodule: The datamodule.
        transform: Transform of the model's pre-processor.
        model: The exported model.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from anomalib_stfpm.data import TextureDemo
        >>> image = openvino.opset13.parameter([1, 3, 64, 96], np.float32)
        >>> model = openvino.Model([openvino.opset13.relu(image)], [image])
        >>> with TemporaryDirectory() as folder:
        ...     images = ImagesOf(TextureDemo(folder), None, model)
        ...     next(images.test()).image.shape
        (1, 3, 64, 96)
    """

    def __init__(self, datamodule: AnomalibDataModule, transform: Transform | None, model: openvino.Model) -> None:
        self.datamodule = datamodule
        self.transform = transform
        self.input_size = _input_size(model)
        datamodule.prepare_data()
        datamodule.setup()

    def calibration(self) -> list[ImageArray]:
        """Read up to 300 normal training images, evenly spread over the sorted paths.

        Returns:
            Images of shape ``(1, 3, H, W)`` with values from 0 to 1.

        Raises:
            ValueError: If the datamodule has no normal training image.
        """
        samples = self.datamodule.train_data.samples
        paths = sorted(samples.image_path[samples.label_index == 0])
        if not paths:
            msg = "INT8 needs normal training images to calibrate with: the datamodule has none."
            raise ValueError(msg)
        return [self._read(paths[index]) for index in _evenly(len(paths), CALIBRATION_IMAGES)]

    def test(self) -> Iterator[HeldOut]:
        """Read up to 500 test images, evenly spread, or validation images if there is no test set."""
        dataset = getattr(self.datamodule, "test_data", None) or self.datamodule.val_data
        yield from (self._held_out(dataset[index]) for index in _evenly(len(dataset), COMPARED_IMAGES))

    def validation(self) -> Iterator[HeldOut]:
        """Read all validation images."""
        dataset = self.datamodule.val_data
        yield from (self._held_out(dataset[index]) for index in range(len(dataset)))

    def _read(self, path: str | Path) -> ImageArray:
        return self._as_input(read_image(path, as_tensor=True))

    def _held_out(self, item: Any) -> HeldOut:  # noqa: ANN401  # anomalib types its items by protocols
        mask = item.gt_mask
        if mask is not None and self.transform is not None:
            _, mask = self.transform(item.image, mask)
        label = None if item.gt_label is None else bool(item.gt_label)
        return HeldOut(self._as_input(item.image), label, mask)

    def _as_input(self, image: Any) -> ImageArray:  # noqa: ANN401  # a tensor of shape (3, H, W)
        if self.input_size is not None:
            image = self._resize(image)
        array: ImageArray = image.as_subclass(torch.Tensor).unsqueeze(0).numpy()
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
