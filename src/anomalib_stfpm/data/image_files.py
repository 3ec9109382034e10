"""Which files of a folder are images, which mask belongs to which image, and how both are read.

``import anomalib_stfpm`` makes anomalib's datasets use these rules, so that training, ``predict`` and ``infer`` see the
same values.
"""

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2.functional import to_dtype

from anomalib_stfpm_deploy.heat_map import as_8_bits
from anomalib_stfpm_deploy.image import SUFFIXES, UnreadableImageError, decode, is_leftover
from anomalib_stfpm_deploy.image import read_image as read_rgb


class UnusableFileError(ValueError):
    """A file cannot be used. The error is one sentence, also when a worker process of a dataloader raised it."""

    def __init__(self, message: str) -> None:
        # torch hands over the traceback of the worker process as the message.
        super().__init__(message.rstrip().rpartition(f"{type(self).__name__}: ")[2])  # all of any other message


def read_image(path: str | Path, as_tensor: bool = False) -> Any:  # noqa: ANN401  # as anomalib's
    """Read an RGB image.

    Args:
        path: The file.
        as_tensor: Whether to return a tensor of shape ``(3, H, W)`` instead of an array of shape ``(H, W, 3)``.

    Returns:
        The image, with values from 0 to 1.

    Raises:
        UnusableFileError: If the file is not a whole image, or has values without a known range.
    """
    try:
        image = read_rgb(path)
    except UnreadableImageError as error:
        msg = f"'{path}' cannot be used: {error}."
        raise UnusableFileError(msg) from error
    if as_tensor:
        planes = np.stack(cv2.split(image))  # as torchvision's to_image, but five times faster
        return to_dtype(tv_tensors.Image(torch.from_numpy(planes)), torch.float32, scale=True)
    return image / 255.0 if image.dtype == np.uint8 else image


def read_mask(path: str | Path, as_tensor: bool = False) -> Any:  # noqa: ANN401  # as anomalib's
    """Read a mask, in which all values but 0 mark a defect.

    Args:
        path: The file.
        as_tensor: Whether to return a mask of 0 and 1 instead of an array of 0 and 255, both of shape ``(H, W)``.

    Returns:
        The mask.

    Raises:
        UnusableFileError: If the file is not a whole image.
    """
    try:
        values = decode(path)
    except UnreadableImageError as error:
        msg = f"'{path}' cannot be used as a mask: {error}."
        raise UnusableFileError(msg) from error
    marked = values != 0 if values.ndim == 2 else (values != 0).any(axis=2)
    return tv_tensors.Mask(torch.from_numpy(marked), dtype=torch.uint8) if as_tensor else marked.astype(np.uint8) * 255


def open_image(path: str | Path) -> Image.Image:
    """Read an image to show it."""
    return Image.fromarray(as_8_bits(read_rgb(path)))


def require_mask_of_image_size(item: Any) -> None:  # noqa: ANN401  # anomalib types its items by protocols
    """Check a mask.

    Raises:
        UnusableFileError: If it does not have the size of its image.
    """
    if item.gt_mask is not None and item.gt_mask.shape[-2:] != item.image.shape[-2:]:
        sizes = [" x ".join(map(str, part.shape[-2:])) for part in (item.gt_mask, item.image)]
        msg = f"'{item.mask_path}' is a mask of {sizes[0]} pixels for '{item.image_path}', which has {sizes[1]}."
        raise UnusableFileError(msg)


def without_leftovers(paths: Sequence[Path], folder: Path) -> list[Path]:
    """Leave out the files that tools left in a folder.

    Raises:
        FileNotFoundError: If no other file is there.
    """
    images = [path for path in paths if not is_leftover(path.relative_to(folder))]
    if paths and not images:
        msg = f"'{folder}' holds no images, only files that tools left there."
        raise FileNotFoundError(msg)
    return images


def images_in(folder: Path, suffixes: Collection[str] = SUFFIXES) -> list[Path]:
    """List the images in a folder and in the folders in it, in the order of their names."""
    lower = {suffix.lower() for suffix in suffixes}
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in lower and not path.is_dir())
    return [path for path in files if not is_leftover(path.relative_to(folder))]


def masks_by_name(images: Sequence[Path], image_folder: Path, masks: Sequence[Path], mask_folder: Path) -> list[Path]:
    """Find the mask of each image by its name, never by its place in the list.

    The mask of ``1.png`` is called ``1`` or ``1_mask``, or is the only one whose name holds ``1`` as a whole word.

    Raises:
        UnusableFileError: If an image has no mask, or several.
    """
    of_folder: dict[Path, dict[str, Path]] = {}
    for mask in masks:
        of_folder.setdefault(mask.relative_to(mask_folder).parent, {})[mask.stem] = mask
    everywhere = {mask.stem: mask for mask in masks}
    return [_mask_of(image, of_folder.get(image.relative_to(image_folder).parent, everywhere)) for image in images]


def _mask_of(image: Path, masks: dict[str, Path]) -> Path:
    for name in (image.stem, f"{image.stem}_mask"):
        if name in masks:
            return masks[name]
    word = re.compile(rf"(?<![^\W_]){re.escape(image.stem)}(?![^\W_])")
    found = [mask for name, mask in masks.items() if word.search(name)]
    if len(found) != 1:
        msg = f"'{image}' has {len(found) or 'no'} masks: name its mask {image.stem}_mask.png."
        raise UnusableFileError(msg)
    return found[0]
