"""Pictures read as training reads them: by Pillow, ``Image.open(path).convert("RGB")``, which is not needed here."""

import stat
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
"""A picture of shape ``(H, W, 3)``, red first."""

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Names of the formats that are looked for in a folder."""

_JPEG, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8\xff", b"\xff\xda", b"\xff\xd9"
_TIFF = (b"II*\x00", b"MM\x00*")


class UnreadablePictureError(ValueError):
    """A file is not a picture, or not a whole one.

    Example:
        >>> try:
        ...     read_picture("nothing.png")
        ... except UnreadablePictureError as error:
        ...     print(f"nothing.png is left out: {error}")
        nothing.png is left out: it cannot be read (No such file or directory)
    """


def read_picture(path: Path | str) -> Picture:
    """Read a picture.

    Grey ones get three equal channels, transparency and orientation tags are ignored, and of 16 bits a channel the
    upper eight are kept; only of grey ones, as Pillow has it, all above 255 becomes 255.

    Args:
        path: The file.

    Returns:
        A picture of shape ``(H, W, 3)``, red first.

    Raises:
        UnreadablePictureError: If the file cannot be read, or is no picture or not a whole one.

    Example:
        >>> read_picture("nothing.png")
        Traceback (most recent call last):
        ...
        anomalib_stfpm_deploy.picture.UnreadablePictureError: it cannot be read (No such file or directory)
    """
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            msg = "it cannot be read (it is not a file)"  # but a folder, or something without an end
            raise UnreadablePictureError(msg)
        data = Path(path).read_bytes()
    except OSError as error:
        msg = f"it cannot be read ({error.strerror or error})"
        raise UnreadablePictureError(msg) from error
    if not data:
        msg = "it is empty"
        raise UnreadablePictureError(msg)
    if data.startswith(_JPEG) and data.rfind(_END_OF_IMAGE) < data.rfind(_START_OF_SCAN):
        msg = "it is cut off"  # OpenCV would make up the rest
        raise UnreadablePictureError(msg)
    try:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        msg = f"it is too large or cannot be decoded ({error.err or 'unknown format'})"
        raise UnreadablePictureError(msg) from error
    if decoded is None:
        msg = "it is not a picture, or not a whole one"
        raise UnreadablePictureError(msg)
    if data.startswith(_TIFF) and decoded.ndim == 3 and decoded.shape[2] == 4:
        msg = "it is a TIFF with transparency, which OpenCV reads differently from training: save it as PNG"
        raise UnreadablePictureError(msg)
    return _as_rgb(decoded)


def _as_rgb(decoded: npt.NDArray[Any]) -> Picture:
    channels = 1 if decoded.ndim == 2 else decoded.shape[2]
    if decoded.dtype != np.uint8:
        upper = decoded >> 8 if channels > 1 and decoded.dtype == np.uint16 else decoded.clip(0, 255)
        decoded = upper.astype(np.uint8)
    conversion = {1: cv2.COLOR_GRAY2RGB, 3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGB}[channels]
    return np.asarray(cv2.cvtColor(decoded, conversion), np.uint8)
