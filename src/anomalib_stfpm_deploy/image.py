"""Images are read by one rule, which training uses too, and resized as torchvision's ``Resize`` does it."""

import re
import stat
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

ImageArray = npt.NDArray[np.uint8] | npt.NDArray[np.float32]
"""An RGB image of shape ``(H, W, 3)``, with values from 0 to 255 or, as floating-point numbers, from 0 to 1."""

Pixels = npt.NDArray[np.float32]
"""The input of a network, of shape ``(1, 3, H, W)``, with values from 0 to 1."""

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""File name suffixes of the images that are found in a folder."""

_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_LARGEST_VALUE = re.compile(rb"P[2356](?:(?:\s|#[^\n]*\n)+(\d+)){3}\s")  # in a .pgm or .ppm file, after its size
_TIFF = (b"II*\x00", b"MM\x00*")
_LEFT_BY_TOOLS = {"__MACOSX", "@eaDir"}

_BAND = 32  # neighbouring outputs, which depend on the same few inputs
_CACHED_LENGTHS = 1024


class UnreadableImageError(ValueError):
    """A file is not an image, or not a whole one, or its values have no known range.

    Example:
        >>> try:
        ...     read_image("nothing.png")
        ... except UnreadableImageError as error:
        ...     print(f"nothing.png is left out: {error}")
        nothing.png is left out: it cannot be read (No such file or directory)
    """


def is_leftover(path: PurePath) -> bool:
    """Return whether a tool left a file in a folder: its name or that of a folder in between begins with a dot, or so.

    Args:
        path: The path below the folder that is searched.

    Example:
        >>> is_leftover(Path("good/._1.jpg")), is_leftover(Path("good/.ipynb_checkpoints/1.jpg"))
        (True, True)
        >>> is_leftover(Path("good/1.jpg"))
        False
    """
    return any(part.startswith(".") or part in _LEFT_BY_TOOLS for part in path.parts)


def read_image(path: Path | str | bytes) -> ImageArray:
    """Read an image as RGB.

    A greyscale image gets three equal channels, transparency is ignored, and the image is turned as its orientation tag
    says. Values of 16 bits are divided by 65535. Floating-point values must be from 0 to 1.

    Args:
        path: The file, or what is in it.

    Returns:
        The image, of shape ``(H, W, 3)``: 8 bits as they are, any other depth as ``float32`` from 0 to 1.

    Raises:
        UnreadableImageError: If the file cannot be read, is not a whole image, or has values without a known range.

    Example:
        >>> read_image("nothing.png")
        Traceback (most recent call last):
        ...
        anomalib_stfpm_deploy.image.UnreadableImageError: it cannot be read (No such file or directory)
    """
    decoded = decode(path)
    if decoded.dtype == np.uint8 and decoded.ndim == 3:
        return as_rgb(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))  # 30 times faster than a copy of a flipped array
    return as_rgb(decoded if decoded.ndim == 2 else decoded[..., ::-1])


def decode(path: Path | str | bytes) -> npt.NDArray[Any]:
    """Read the values of a file as they are, turned as its orientation tag says.

    Args:
        path: The file, or what is in it.

    Returns:
        Grey values of shape ``(H, W)``, or blue, green and red ones of shape ``(H, W, 3)``.

    Raises:
        UnreadableImageError: If the file cannot be read, or is not a whole image.

    Example:
        >>> decode("nothing.png")
        Traceback (most recent call last):
        ...
        anomalib_stfpm_deploy.image.UnreadableImageError: it cannot be read (No such file or directory)
    """
    data = path if isinstance(path, bytes) else _content(Path(path))
    if not data:
        msg = "it is empty"
        raise UnreadableImageError(msg)
    if data.startswith(_JPEG) and data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN):
        msg = "it is cut off"  # OpenCV would make up the rest
        raise UnreadableImageError(msg)
    is_tiff = data.startswith(_TIFF)
    # Only "unchanged" shows that a TIFF has transparency. OpenCV turns a TIFF in either case.
    how = cv2.IMREAD_UNCHANGED if is_tiff else cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
    try:
        decoded: npt.NDArray[Any] | None = cv2.imdecode(np.frombuffer(data, np.uint8), how)
    except cv2.error as error:
        limit = "OPENCV_IO_MAX_IMAGE_PIXELS"
        is_large = limit.removeprefix("OPENCV_") in (error.err or "")
        msg = (
            f"it is too large: {limit} raises the limit of pixels"
            if is_large
            else f"it cannot be decoded ({error.err})"
        )
        raise UnreadableImageError(msg) from error
    if decoded is None:
        msg = "it is not an image, or not a whole one"
        if is_tiff:
            msg += ", or its values are of a type that is not read: save it with 8 or 16 bits"
        raise UnreadableImageError(msg)
    if decoded.ndim == 3 and decoded.shape[2] != 3:
        msg = "it is a TIFF with transparency, which OpenCV reads differently from PNG: save it as PNG"
        raise UnreadableImageError(msg)
    declared = _LARGEST_VALUE.match(data)
    if declared and int(declared[1]) not in (255, 65535):  # OpenCV does not look at it
        return decoded.astype(np.float32) / np.float32(int(declared[1]))
    return decoded


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            msg = "it cannot be read (it is not a file)"  # reading a named pipe might never end
            raise UnreadableImageError(msg)
        return path.read_bytes()
    except OSError as error:
        msg = f"it cannot be read ({error.strerror or error})"
        raise UnreadableImageError(msg) from error


def as_rgb(image: npt.NDArray[Any]) -> ImageArray:
    """Give an image three channels, and values whose range is known.

    Args:
        image: An image of shape ``(H, W)``, ``(H, W, 1)``, ``(H, W, 3)`` in RGB or ``(H, W, 4)`` in RGBA, with values
            of 8 or 16 bits or floating-point values from 0 to 1.

    Returns:
        The image of shape ``(H, W, 3)``: 8 bits as they are, any other depth as ``float32`` from 0 to 1.

    Raises:
        UnreadableImageError: If it is anything else.

    Example:
        >>> as_rgb(np.full((1, 1), 13107, np.uint16)).tolist()
        [[[0.20000000298023224, 0.20000000298023224, 0.20000000298023224]]]
    """
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[..., 0]
    if image.ndim not in (2, 3) or 0 in image.shape or (image.ndim == 3 and image.shape[2] not in (3, 4)):
        msg = f"its shape must be (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): it is {image.shape}"
        raise UnreadableImageError(msg)
    image = np.stack([image] * 3, axis=-1) if image.ndim == 2 else image[..., :3]
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if image.dtype == np.uint16:
        return image.astype(np.float32) / np.float32(65535)
    if not np.issubdtype(image.dtype, np.floating):
        msg = f"its values are of type {image.dtype}, whose range is not known: save it with 8 or 16 bits"
        raise UnreadableImageError(msg)
    if not (image.min() >= 0 and image.max() <= 1):  # false for NaN, too
        msg = (
            "its floating-point values must be from 0 to 1, without NaN: "
            f"they are from {image.min():.6g} to {image.max():.6g}"
        )
        raise UnreadableImageError(msg)
    return image.astype(np.float32)


def resize_antialiased(image: ImageArray, size: tuple[int, int]) -> Pixels:
    """Resize an image bilinearly with antialiasing, as torchvision's ``Resize`` does.

    Args:
        image: An image of shape ``(H, W, 3)``, with values of 8 bits, or floating-point ones from 0 to 1.
        size: Height and width in pixels.

    Returns:
        The image of shape ``(1, 3, *size)``, with values from 0 to 1.

    Example:
        >>> resize_antialiased(np.full((50, 70, 3), 255, np.uint8), (32, 32)).shape
        (1, 3, 32, 32)
    """
    height, width, channels = image.shape
    pixels: Pixels = image.reshape(height, width * channels).astype(np.float32)
    if image.dtype == np.uint8:
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
