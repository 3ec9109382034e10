"""Anomaly maps as images."""

import struct
import zlib
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .image import ImageArray, Pixels

_HEAT_MAP_SHARE = 0.4
# The fastest settings. Heat maps are smooth, so slower ones would not make the files much smaller.
_PNG_SETTINGS = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
]

# A PNG file starts with its signature and the chunk IHDR: length, name, data and checksum.
_SIGNATURE_LENGTH = 8
_HEADER_DATA = slice(16, 29)
_COLOUR_TYPE, _INDEXED = 9, 3

Levels = npt.NDArray[np.uint8]
"""An anomaly map of shape ``(H, W)`` in 256 levels."""


def levels(anomaly_map: npt.NDArray[np.float32], size: tuple[int, int]) -> Levels:
    """Round an anomaly map to 256 levels, and resize it. Values are clipped to the range from 0 to 1.

    Example:
        >>> levels(np.array([[0.0, 0.5, 2.0]], np.float32), (1, 3)).tolist()
        [[0, 128, 255]]
    """
    grey: Any = cv2.convertScaleAbs(anomaly_map.clip(0, 1), alpha=255)
    return grey if grey.shape == size else cv2.resize(grey, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def colour(found: Levels) -> ImageArray:
    """Colour the levels of an anomaly map, from blue (normal) to red (anomalous).

    Example:
        >>> colour(np.array([[0, 255]], np.uint8)).tolist()
        [[[0, 0, 128], [128, 0, 0]]]
    """
    coloured: Any = cv2.cvtColor(cv2.applyColorMap(found, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return coloured  # type: ignore[no-any-return]


def heat_map(anomaly_map: npt.NDArray[np.float32], size: tuple[int, int]) -> ImageArray:
    """Colour an anomaly map, from blue (normal) to red (anomalous).

    Args:
        anomaly_map: Anomaly map of shape ``(H, W)``. Values are clipped to the range from 0 to 1.
        size: Height and width of the result.

    Returns:
        An RGB image of shape ``(*size, 3)``.

    Example:
        >>> heat_map(np.array([[0.0, 1.0]], np.float32), (1, 2)).tolist()
        [[[0, 0, 128], [128, 0, 0]]]
    """
    return colour(levels(anomaly_map, size))


def as_8_bits(image: ImageArray) -> npt.NDArray[np.uint8]:
    """Round an image to 8 bits.

    Example:
        >>> as_8_bits(np.array([[[0.0, 0.2, 1.0]]], np.float32)).tolist()
        [[[0, 51, 255]]]
    """
    return np.asarray(image if image.dtype == np.uint8 else cv2.convertScaleAbs(image, alpha=255), np.uint8)


def as_image(pixels: Pixels) -> ImageArray:
    """Convert the input of a network to an image.

    Example:
        >>> as_image(np.ones((1, 3, 64, 96), np.float32)).shape
        (64, 96, 3)
    """
    image: Any = cv2.merge([cv2.convertScaleAbs(channel, alpha=255) for channel in pixels[0]])
    return image  # type: ignore[no-any-return]


def overlay(image: ImageArray, coloured: ImageArray) -> ImageArray:
    """Lay a heat map over its image.

    Args:
        image: An image of shape ``(H, W, 3)``.
        coloured: A heat map of any size.

    Returns:
        An image of the heat map's size.

    Example:
        >>> image = np.full((20, 30, 3), 100, np.uint8)
        >>> overlay(image, heat_map(np.zeros((8, 8), np.float32), (8, 8))).shape
        (8, 8, 3)
    """
    height, width = coloured.shape[:2]
    if image.shape != coloured.shape:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    mixed: Any = cv2.addWeighted(image, 1 - _HEAT_MAP_SHARE, coloured, _HEAT_MAP_SHARE, 0)
    return mixed  # type: ignore[no-any-return]


def as_png(image: ImageArray) -> bytes:
    r"""Encode an RGB image of shape ``(H, W, 3)`` as PNG.

    Example:
        >>> as_png(np.zeros((8, 8, 3), np.uint8))[:4]
        b'\x89PNG'
    """
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), _PNG_SETTINGS)
    return encoded.tobytes()


def heat_map_as_png(found: Levels) -> bytes:
    r"""Encode ``colour(found)`` as PNG with a palette, which takes a third of the time and size of three channels.

    Example:
        >>> heat_map_as_png(np.zeros((8, 8), np.uint8))[:4]
        b'\x89PNG'
    """
    # OpenCV writes no palettes: write the levels as greyscale, then change the header and insert the palette.
    _, encoded = cv2.imencode(".png", found, _PNG_SETTINGS)
    grey = encoded.tobytes()
    header = bytearray(grey[_HEADER_DATA])
    header[_COLOUR_TYPE] = _INDEXED
    return grey[:_SIGNATURE_LENGTH] + _chunk(b"IHDR", header) + _palette() + grey[_HEADER_DATA.stop + 4 :]


@cache
def _palette() -> bytes:
    return _chunk(b"PLTE", colour(np.arange(256, dtype=np.uint8)[np.newaxis]).tobytes())


def _chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    content = kind + data
    return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))
