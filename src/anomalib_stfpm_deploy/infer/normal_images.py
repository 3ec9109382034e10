"""Thresholds from images that are known to be good."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from anomalib_stfpm_deploy.image import UnreadableImageError, read_image
from anomalib_stfpm_deploy.network import Network
from anomalib_stfpm_deploy.thresholds import Thresholds, threshold_of

from .found import find_images

_MOST_PIXELS = 2**24
"""Most pixels of all maps to keep, evenly spread: 64 MB."""

_MARGIN = 1e-4  # scores of the same image differ by less between runtimes


def measure_thresholds(network: Network, inputs: Sequence[Path], false_alarm_rate: float) -> tuple[Thresholds, int]:
    """Set thresholds so that a share of normal images, and of their pixels, exceeds them.

    Args:
        network: The model, which must not clamp.
        inputs: Normal images, and folders with them.
        false_alarm_rate: Share of normal images, and of their pixels, above the thresholds.

    Returns:
        The thresholds, and how many images they are from.

    Raises:
        FileNotFoundError: If an input does not exist, or no image is found.
        ValueError: If an image cannot be read, or the rate is not between 0 and 1.
    """
    paths = [path for _, path in find_images(inputs)]
    largest = _MOST_PIXELS // len(paths)

    def measure(path: Path) -> tuple[float, npt.NDArray[np.float32]]:
        try:
            prediction = network.predict(network.prepare(read_image(path)))
        except UnreadableImageError as error:
            msg = f"'{path}' cannot be used as a normal image: {error}."
            raise ValueError(msg) from error
        pixels = prediction.anomaly_map.ravel()
        return prediction.score, pixels[:: -(-pixels.size // max(largest, 1))].copy()

    with ThreadPoolExecutor(network.requests) as pool:
        try:
            scores, maps = zip(*pool.map(measure, paths), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)
    image, pixel = (threshold_of(values, false_alarm_rate) for values in (scores, np.concatenate(maps)))
    return Thresholds(image + _MARGIN * abs(image), pixel + _MARGIN * abs(pixel)), len(paths)
