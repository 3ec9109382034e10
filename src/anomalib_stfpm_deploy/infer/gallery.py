"""``gallery.html``: every image with its heat map, score and verdict, for a browser and without a server."""

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.image import ImageArray
from anomalib_stfpm_deploy.results import Result
from anomalib_stfpm_deploy.thresholds import Thresholds

GALLERY_FILE, THUMBNAILS = "gallery.html", "thumbnails"

_PER_PAGE = 60
_SIDE = 256  # most pixels of an image in a thumbnail; the usual input needs no resizing
_JPEG_SETTINGS = [cv2.IMWRITE_JPEG_QUALITY, 80]
_TEMPLATE = "gallery.html"


def thumbnail(image: ImageArray, overlay: ImageArray) -> bytes:
    r"""Encode an image and its overlay, side by side, as a small JPEG.

    Args:
        image: An image of shape ``(H, W, 3)`` with values of 8 bits.
        overlay: Its overlay, of the same shape.

    Example:
        >>> thumbnail(np.zeros((30, 20, 3), np.uint8), np.zeros((30, 20, 3), np.uint8))[:2]
        b'\xff\xd8'
    """
    height, width = image.shape[:2]
    both: Any = np.hstack([image, overlay])
    scale = _SIDE / max(height, width)
    if scale < 1:
        size = 2 * max(1, round(scale * width)), max(1, round(scale * height))
        both = cv2.resize(both, size, interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(both, cv2.COLOR_RGB2BGR), _JPEG_SETTINGS)
    return encoded.tobytes()


def write_gallery(folder: Path, results: Sequence[Result], thresholds: Thresholds) -> None:
    """Write ``gallery.html`` into an output folder, where the thumbnails are. Unreadable images come last."""
    worst_first = sorted(results, key=lambda one: (one.score is None, -(one.score or 0)))
    limit = "" if thresholds.image is None else f" Anomalous is a score above {thresholds.image:.4g}."
    data = {
        "about": f"{len(results)} images, each beside its heat map with outlined regions.{limit}",
        "per_page": _PER_PAGE,
        "images": [_entry(result) for result in worst_first],
    }
    # Nothing in the data may end the script element.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
    files.write_text(folder / GALLERY_FILE, template.replace("@DATA@", text))


def _entry(result: Result) -> dict[str, Any]:
    verdicts = {None: "no verdict", True: "anomalous", False: "normal"}
    return {
        "name": result.picture,
        "score": result.score,
        "verdict": verdicts[result.is_anomalous] if result.unreadable is None else "unreadable",
        "reason": result.unreadable,
        "thumbnail": result.thumbnail,
        "overlay": result.overlay,
        "heat_map": result.heat_map,
        "regions": len(result.regions),
    }
