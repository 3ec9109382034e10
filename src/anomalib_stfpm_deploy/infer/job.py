"""What is done with each image: it is scored, and its heat map, overlay and thumbnail are written."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.heat_map import as_8_bits, as_image, as_png, colour, heat_map_as_png, levels, overlay
from anomalib_stfpm_deploy.image import ImageArray, UnreadableImageError, read_image
from anomalib_stfpm_deploy.infer.gallery import THUMBNAILS, thumbnail
from anomalib_stfpm_deploy.infer.regions import Region, draw_outlines, find_regions
from anomalib_stfpm_deploy.network import Network
from anomalib_stfpm_deploy.results import Result
from anomalib_stfpm_deploy.thresholds import Thresholds, rescaling

HEAT_MAPS, OVERLAYS = "heat_maps", "overlays"

_LONGEST_NAME = 251  # bytes: a heat map adds ".png", and file systems allow 255
_QUEUED_PER_THREAD = 4
_MIDDLE = 0.5  # of the colours, where the pixel threshold is


@dataclass(frozen=True)
class Job:
    """Score an image and draw what was found. Threads may share it.

    Args:
        network: The model. It must not clamp if the thresholds are not its own.
        folder: The output folder.
        full_size: Whether heat maps and overlays have the image's size.
        with_maps: Whether to write them.
        thresholds: What to compare scores and maps with.
        min_area: Smallest area of a region, in pixels of the image.
        with_thumbnails: Whether to write thumbnails with the maps.
    """

    network: Network
    folder: Path
    full_size: bool
    with_maps: bool
    thresholds: Thresholds
    min_area: float = 0
    with_thumbnails: bool = True

    @property
    def threads(self) -> int:
        """Number of threads to run it in: more than the network uses, so that others read and write meanwhile."""
        return self.network.requests + (os.cpu_count() or 1)

    @property
    def queued(self) -> int:
        """Largest number of images to give to the threads at once."""
        return _QUEUED_PER_THREAD * self.threads

    def __call__(self, name: str, path: Path, version: str) -> Result:
        """Score the image at a path."""
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            return Result(name, version, unreadable=str(error))
        if self.with_maps and len(os.fsencode(Path(name).name)) > _LONGEST_NAME:
            return Result(name, version, unreadable="its name is too long for a heat map: rename it")
        pixels = self.network.prepare(image)
        prediction = self.network.predict(pixels)
        if not math.isfinite(prediction.score):
            return Result(name, version, unreadable="the model's score of it is not a number: export the model again")
        is_anomalous = prediction.is_anomalous
        if self.thresholds != self.network.thresholds and self.thresholds.image is not None:
            is_anomalous = prediction.score > self.thresholds.image
        height, width = image.shape[:2]
        regions: list[Region] = []
        if self.thresholds.pixel is not None:
            regions = find_regions(prediction.anomaly_map, self.thresholds.pixel, (height, width), self.min_area)
        found: dict[str, Any] = {"width": width, "height": height, "regions": tuple(regions)}
        if self.with_maps:
            shown = as_8_bits(image) if self.full_size else as_image(pixels)
            outlined = partial(draw_outlines, regions=regions, size=(height, width))
            found |= self._draw(name, shown, self._in_the_middle(prediction.anomaly_map), outlined)
        return Result(name, version, prediction.score, is_anomalous, **found)

    def _in_the_middle(self, anomaly_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Move the values of a map so that the pixel threshold is in the middle of the colours."""
        if self.thresholds.pixel is None or self.thresholds.pixel == _MIDDLE:
            return anomaly_map
        factor, summand = rescaling(_MIDDLE, self.thresholds.pixel)
        moved: npt.NDArray[np.float32] = anomaly_map * np.float32(factor) + np.float32(summand)
        return moved

    def _draw(
        self,
        name: str,
        shown: ImageArray,
        anomaly_map: npt.NDArray[np.float32],
        outlined: Callable[[ImageArray], ImageArray],
    ) -> dict[str, str]:
        """Write heat map, overlay and thumbnail; return their paths by field of the result."""
        found = levels(anomaly_map, (shown.shape[0], shown.shape[1]))
        drawn = outlined(overlay(shown, colour(found)))
        paths = {"heat_map": f"{HEAT_MAPS}/{name}.png", "overlay": f"{OVERLAYS}/{name}.png"}
        pictures = [heat_map_as_png(found), as_png(drawn)]
        if self.with_thumbnails:
            paths["thumbnail"] = f"{THUMBNAILS}/{name}.jpg"
            pictures.append(thumbnail(shown, drawn))
        for path, encoded in zip(paths.values(), pictures, strict=True):
            files.write_bytes(self.folder / path, encoded, durable=False)
        return paths


def run(job: Job, images: list[tuple[str, Path, str]]) -> Iterator[Result]:
    """Run the job on images, in threads."""
    with ThreadPoolExecutor(job.threads) as pool:
        running: set[Future[Result]] = set()
        try:
            for image in images:
                running.add(pool.submit(job, *image))
                if len(running) >= job.queued:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(running))
        finally:
            pool.shutdown(cancel_futures=True)
