"""Anomaly maps as pictures."""

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


def heat_map(anomaly_map: npt.NDArray[np.float32], size: tuple[int, int]) -> Picture:
    """Colour an anomaly map: blue is normal, red anomalous.

    Args:
        anomaly_map: Anomaly map of shape ``(H, W)``, with values from 0 to 1; what is beyond is cut off.
        size: Height and width of the picture to make.

    Returns:
        A picture of shape ``(*size, 3)``, red first.
    """
    grey = cv2.convertScaleAbs(anomaly_map.clip(0, 1), alpha=255)
    if grey.shape != size:
        grey = cv2.resize(grey, size[::-1], interpolation=cv2.INTER_LINEAR)
    coloured: Any = cv2.cvtColor(cv2.applyColorMap(grey, cv2.COLORMAP_JET), cv2.COLOR_BGR2RGB)
    return coloured  # type: ignore[no-any-return]


def as_picture(pixels: Pixels) -> Picture:
    """Make a picture of what the network takes.

    Args:
        pixels: A picture of shape ``(1, 3, H, W)``, with values from 0 to 1.

    Returns:
        It, of shape ``(H, W, 3)``.
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
    """
    height, width = coloured.shape[:2]
    if picture.shape != coloured.shape:
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
    mixed: Any = cv2.addWeighted(picture, 1 - _SHARE_OF_THE_HEAT_MAP, coloured, _SHARE_OF_THE_HEAT_MAP, 0)
    return mixed  # type: ignore[no-any-return]


def as_png(picture: Picture) -> bytes:
    """Encode a picture.

    Args:
        picture: A picture of shape ``(H, W, 3)``, red first.

    Returns:
        It as PNG.
    """
    _, encoded = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), _PNG)
    return encoded.tobytes()
