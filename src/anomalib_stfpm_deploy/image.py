"""Images read and resized as in training: as Pillow's ``convert("RGB")`` and torchvision's ``Resize`` do it."""

import stat
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8]
"""An RGB image of shape ``(H, W, 3)``."""

Pixels = npt.NDArray[np.float32]
"""The input of a network, of shape ``(1, 3, H, W)``, with values from 0 to 1."""

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""File name suffixes of the images that are found in a folder."""

_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_TIFF = (b"II*\x00", b"MM\x00*")

_BAND = 32  # neighbouring outputs, which depend on the same few inputs
_CACHED_LENGTHS = 1024


class UnreadableImageError(ValueError):
    """A file is not an image, or not a whole one.

    Example:
        >>> try:
        ...     read_image("nothing.png")
        ... except UnreadableImageError as error:
        ...     print(f"nothing.png is left out: {error}")
        nothing.png is left out: it cannot be read (No such file or directory)
    """


def read_image(path: Path | str) -> ImageArray:
    """Read an image as RGB.

    A greyscale image gets three equal channels. Transparency and orientation tags are ignored. A channel of 16 bits
    keeps its upper 8 bits. In a greyscale image of 16 bits, values above 255 become 255 instead, as in Pillow.

    Args:
        path: The file.

    Returns:
        The image, of shape ``(H, W, 3)``.

    Raises:
        UnreadableImageError: If the file cannot be read, or is not a whole image.

    Example:
        >>> read_image("nothing.png")
        Traceback (most recent call last):
        ...
        anomalib_stfpm_deploy.image.UnreadableImageError: it cannot be read (No such file or directory)
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            msg = "it cannot be read (it is not a file)"  # reading a named pipe might never end
            raise UnreadableImageError(msg)
        data = Path(path).read_bytes()
    except OSError as error:
        msg = f"it cannot be read ({error.strerror or error})"
        raise UnreadableImageError(msg) from error
    if not data:
        msg = "it is empty"
        raise UnreadableImageError(msg)
    if data.startswith(_JPEG) and data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN):
        msg = "it is cut off"  # OpenCV would make up the rest
        raise UnreadableImageError(msg)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        msg = f"it is too large or cannot be decoded ({error.err or 'unknown format'})"
        raise UnreadableImageError(msg) from error
    if decoded is None:
        msg = "it is not an image, or not a whole one"
        raise UnreadableImageError(msg)
    if data.startswith(_TIFF) and decoded.ndim == 3 and decoded.shape[2] == 4:
        msg = "it is a TIFF with transparency, which OpenCV reads differently from training: save it as PNG"
        raise UnreadableImageError(msg)
    return _to_rgb(decoded)


def _to_rgb(decoded: npt.NDArray[Any]) -> ImageArray:
    channels = 1 if decoded.ndim == 2 else decoded.shape[2]
    if decoded.dtype != np.uint8:
        upper = decoded >> 8 if channels > 1 and decoded.dtype == np.uint16 else decoded.clip(0, 255)
        decoded = upper.astype(np.uint8)
    conversion = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return np.asarray(cv2.cvtColor(decoded, conversion), np.uint8)


def resize_antialiased(image: ImageArray, size: tuple[int, int]) -> Pixels:
    """Resize an image bilinearly with antialiasing, as torchvision's ``Resize`` does.

    Args:
        image: An image of shape ``(H, W, 3)``.
        size: Height and width in pixels.

    Returns:
        The image of shape ``(1, 3, *size)``, with values from 0 to 1.

    Example:
        >>> resize_antialiased(np.full((50, 70, 3), 255, np.uint8), (32, 32)).shape
        (1, 3, 32, 32)
    """
    height, width, channels = image.shape
    pixels: Pixels = image.reshape(height, width * channels).astype(np.float32)
    pixels *= np.float32(1 / 255)
    if size[0] != height:
        resized = np.empty((size[0], width * channels), np.float32)
        for outputs, inputs, weights in _weights(height, size[0]):
            np.matmul(weights, pixels[inputs], out=resized[outputs])
        pixels = resized
    rows = np.ascontiguousarray(pixels.reshape(size[0], width, channels).transpose(2, 0, 1)).reshape(-1, width)
    if size[1] != width:
        resized = np.empty((len(rows), size[1]), np.float32)
        for outputs, inputs, weights in _weights(width, size[1]):
            resized[:, outputs] = rows[:, inputs] @ weights.T
        rows = resized
    return rows.reshape(1, channels, *size)


@lru_cache(maxsize=_CACHED_LENGTHS)
def _weights(length: int, resized: int) -> list[tuple[slice, slice, Pixels]]:
    """Return the weights of the inputs in bands of outputs, because nearly all weights of the whole matrix are 0.

    A weight falls linearly with the distance of the centres of input and output. It reaches 0 at the spacing of the
    inputs or of the outputs, whichever is wider.
    """
    inputs, outputs = np.arange(length), np.arange(resized)[:, np.newaxis]
    distance: npt.NDArray[Any] = np.abs((2 * inputs + 1) * resized - (2 * outputs + 1) * length)
    weights = (2 * max(length, resized) - distance).clip(min=0).astype(np.float64)
    weights /= weights.sum(axis=1, keepdims=True)
    bands = []
    for start in range(0, resized, _BAND):
        band = weights[start : start + _BAND]
        used = np.flatnonzero(band.any(axis=0))
        reach = slice(int(used[0]), int(used[-1]) + 1)
        bands.append((slice(start, start + len(band)), reach, np.ascontiguousarray(band[:, reach], np.float32)))
    return bands
