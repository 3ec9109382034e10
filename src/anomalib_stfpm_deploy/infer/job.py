"""What is done with each image: it is scored, and its heat map and overlay are written."""

import math
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.heat_map import as_8_bits, as_image, as_png, colour, heat_map_as_png, levels, overlay
from anomalib_stfpm_deploy.image import UnreadableImageError, read_image
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
    """Score an image and write its heat map and overlay. Threads may share it.

    Args:
        network: The model. It must not clamp if thresholds are given.
        folder: The output folder.
        full_size: Whether heat maps and overlays have the image's size.
        with_maps: Whether to write them.
        thresholds: Thresholds other than the model's own.
        min_area: Smallest area of a region, in pixels of the image.
    """

    network: Network
    folder: Path
    full_size: bool
    with_maps: bool
    thresholds: Thresholds | None = None
    min_area: float = 0

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
        own = self.network.thresholds
        thresholds = self.thresholds or own
        is_anomalous, anomaly_map, size = (
            prediction.is_anomalous,
            prediction.anomaly_map,
            (image.shape[0], image.shape[1]),
        )
        if thresholds is not own and thresholds.image is not None:
            is_anomalous = prediction.score > thresholds.image
        regions: list[Region] = []
        if thresholds.pixel is not None:
            regions = find_regions(anomaly_map, thresholds.pixel, size, self.min_area)
        if thresholds is not own and thresholds.pixel is not None:
            factor, summand = rescaling(own.pixel or _MIDDLE, thresholds.pixel)
            anomaly_map = anomaly_map * factor + summand
        heat_map_name = overlay_name = None
        if self.with_maps:
            heat_map_name, overlay_name = (f"{folder}/{name}.png" for folder in (HEAT_MAPS, OVERLAYS))
            shown = as_8_bits(image) if self.full_size else as_image(pixels)
            found = levels(anomaly_map, (shown.shape[0], shown.shape[1]))
            files.write_bytes(self.folder / heat_map_name, heat_map_as_png(found), durable=False)
            outlined = draw_outlines(overlay(shown, colour(found)), regions, size)
            files.write_bytes(self.folder / overlay_name, as_png(outlined), durable=False)
        return Result(
            name,
            version,
            prediction.score,
            is_anomalous,
            heat_map_name,
            overlay_name,
            width=size[1],
            height=size[0],
            regions=tuple(regions),
        )


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
