"""Anomaly maps as pictures."""

import struct
import zlib
from functools import cache
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from .picture import Picture
from .resize import Pixels

_SHARE_OF_THE_HEAT_MAP = 0.4
# The fastest settings: heat maps are smooth, so more effort would not make the files much smaller.
_PNG = [
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
]

# Of a PNG file: signature, then the chunk IHDR as length, name, data and checksum.
_SIGNATURE = 8
_HEADER_DATA = slice(16, 29)
_COLOUR_TYPE, _INDEXED = 9, 3

Levels = npt.NDArray[np.uint8]
"""An anomaly map of shape ``(H, W)`` in 256 levels."""


def levels(anomaly_map: npt.NDArray[np.float32], size: tuple[int, int]) -> Levels:
    """Divide an anomaly map into 256 levels.

    Args:
        anomaly_map: Anomaly map of shape ``(H, W)``, with values from 0 to 1; what is beyond is cut off.
        size: Height and width to make it.

    Returns:
        The levels, of shape ``size``.

    Example:
        >>> levels(np.array([[0.0, 0.5, 2.0]], np.float32), (1, 3)).tolist()
        [[0, 128, 255]]
    """
    grey: Any = cv2.convertScaleAbs(anomaly_map.clip(0, 1), alpha=255)
    return grey if grey.shape == size else cv2.resize(grey, size[::-1], interpolation=cv2.INTER_LINEAR)  # type: ignore[no-any-return]


def colour(found: Levels) -> Picture:
    """Colour the levels of a map: blue is normal, red anomalous.

    Args:
        found: Levels of shape ``(H, W)``.

    Returns:
        A picture of shape ``(H, W, 3)``, red first.

    Example:
        >>> colour(np.array([[0, 255]], np.uint8)).tolist()
        [[[0, 0, 128], [128, 0, 0]]]
    """
    coloured: Any = cv2.cvtColor(cv2.applyColorMap(found, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return coloured  # type: ignore[no-any-return]


def heat_map(anomaly_map: npt.NDArray[np.float32], size: tuple[int, int]) -> Picture:
    """Colour an anomaly map: blue is normal, red anomalous.

    Args:
        anomaly_map: Anomaly map of shape ``(H, W)``, with values from 0 to 1; what is beyond is cut off.
        size: Height and width of the picture to make.

    Returns:
        A picture of shape ``(*size, 3)``, red first.

    Example:
        >>> heat_map(np.array([[0.0, 1.0]], np.float32), (1, 2)).tolist()
        [[[0, 0, 128], [128, 0, 0]]]
    """
    return colour(levels(anomaly_map, size))


def as_picture(pixels: Pixels) -> Picture:
    """Make a picture of what the network takes.

    Args:
        pixels: A picture of shape ``(1, 3, H, W)``, with values from 0 to 1.

    Returns:
        It, of shape ``(H, W, 3)``.

    Example:
        >>> as_picture(np.ones((1, 3, 64, 96), np.float32)).shape
        (64, 96, 3)
    """
    picture: Any = cv2.merge([cv2.convertScaleAbs(channel, alpha=255) for channel in pixels[0]])
    return picture  # type: ignore[no-any-return]


def overlay(picture: Picture, coloured: Picture) -> Picture:
    """Lay a heat map over its picture.

    Args:
        picture: A picture of shape ``(H, W, 3)``.
        coloured: A heat map of any size.

    Returns:
        A picture of the heat map's size.

    Example:
        >>> picture = np.full((20, 30, 3), 100, np.uint8)
        >>> overlay(picture, heat_map(np.zeros((8, 8), np.float32), (8, 8))).shape
        (8, 8, 3)
    """
    height, width = coloured.shape[:2]
    if picture.shape != coloured.shape:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    mixed: Any = cv2.addWeighted(picture, 1 - _SHARE_OF_THE_HEAT_MAP, coloured, _SHARE_OF_THE_HEAT_MAP, 0)
    return mixed  # type: ignore[no-any-return]


def as_png(picture: Picture) -> bytes:
    r"""Encode a picture.

    Args:
        picture: A picture of shape ``(H, W, 3)``, red first.

    Returns:
        It as PNG.

    Example:
        >>> as_png(np.zeros((8, 8, 3), np.uint8))[:4]
        b'\x89PNG'
    """
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _PNG)
    return encoded.tobytes()


def heat_map_as_png(found: Levels) -> bytes:
    r"""Encode the heat map of a map's levels, in a third of the time and the bytes that three channels take.

    Args:
        found: Levels of shape ``(H, W)``.

    Returns:
        What ``colour`` makes of them, as PNG with a palette.

    Example:
        >>> heat_map_as_png(np.zeros((8, 8), np.uint8))[:4]
        b'\x89PNG'
    """
    _, encoded = cv2.imencode(".png", found, _PNG)
    grey = encoded.tobytes()
    header = bytearray(grey[_HEADER_DATA])
    header[_COLOUR_TYPE] = _INDEXED  # the pixels stay as they are
    return grey[:_SIGNATURE] + _chunk(b"IHDR", header) + _palette() + grey[_HEADER_DATA.stop + 4 :]


@cache
def _palette() -> bytes:
    """The chunk that is the same in every heat map."""
    return _chunk(b"PLTE", colour(np.arange(256, dtype=np.uint8)[np.newaxis]).tobytes())


def _chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    content = kind + data
    return struct.pack(">I", len(data)) + content + struct.pack(">I", zlib.crc32(content))
