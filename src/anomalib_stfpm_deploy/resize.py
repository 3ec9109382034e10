"""Resizing pictures as training does: bilinearly and with antialiasing, as torchvision's ``Resize``."""

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .picture import Picture

Pixels = npt.NDArray[np.float32]

_IN_A_BAND = 32  # outputs that are made of the same few inputs, for a small dense product each
_DIFFERENT_LENGTHS = 1024  # cameras give few, cut-outs many


def resize_antialiased(picture: Picture, size: tuple[int, int]) -> Pixels:
    """Resize a picture and make it what the network takes.

    Args:
        picture: A picture of shape ``(H, W, 3)``.
        size: Height and width in pixels.

    Returns:
        The picture of shape ``(1, 3, *size)``, with values from 0 to 1.

    Example:
        >>> resize_antialiased(np.full((50, 70, 3), 255, np.uint8), (32, 32)).shape
        (1, 3, 32, 32)
    """
    height, width, channels = picture.shape
    pixels: Pixels = picture.reshape(height, width * channels).astype(np.float32)
    pixels *= np.float32(1 / 255)
    if size[0] != height:
        resized = np.empty((size[0], width * channels), np.float32)
        for outputs, inputs, weights in _bands(height, size[0]):
            np.matmul(weights, pixels[inputs], out=resized[outputs])
        pixels = resized
    rows = np.ascontiguousarray(pixels.reshape(size[0], width, channels).transpose(2, 0, 1)).reshape(-1, width)
    if size[1] != width:
        resized = np.empty((len(rows), size[1]), np.float32)
        for outputs, inputs, weights in _bands(width, size[1]):
            resized[:, outputs] = rows[:, inputs] @ weights.T
        rows = resized
    return rows.reshape(1, channels, *size)


@lru_cache(maxsize=_DIFFERENT_LENGTHS)
def _bands(length: int, resized: int) -> list[tuple[slice, slice, Pixels]]:
    """Weights of the inputs in the outputs, cut into bands, as nearly all of them are 0.

    A weight falls linearly with the distance of the centres of input and output, to 0 at the spacing of the inputs or
    of the outputs, whichever is wider.
    """
    inputs, outputs = np.arange(length), np.arange(resized)[:, np.newaxis]
    distance: npt.NDArray[Any] = np.abs((2 * inputs + 1) * resized - (2 * outputs + 1) * length)
    weights = (2 * max(length, resized) - distance).clip(min=0).astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    bands = []
    for start in range(0, resized, _IN_A_BAND):
        band = weights[start : start + _IN_A_BAND]
        used = np.flatnonzero(band.any(axis=0))
        reach = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + len(band)), reach, np.ascontiguousarray(band[:, reach], np.float32)))
    return bands
