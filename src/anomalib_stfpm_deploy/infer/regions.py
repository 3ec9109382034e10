"""Connected regions of an anomaly map above its threshold."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from anomalib_stfpm_deploy.image import ImageArray

_LINE = (255, 255, 255)
_EDGE = (0, 0, 0)  # on both sides of the line, which would not show on white
_LINES_ACROSS = 400  # an image is so many times as wide as a line


@dataclass(frozen=True)
class Region:
    """A connected region above the pixel threshold, in pixels of the image file, from its upper left corner.

    Args:
        box: Left, top, width and height.
        area: Number of pixels.
        area_percent: Share of the image, in per cent.
        peak: Highest value of the anomaly map in it.
        centroid: Its centre of mass, x and y.
        outline: Its outer outline: x and y of each corner in turn.
    """

    box: tuple[float, float, float, float]
    area: float
    area_percent: float
    peak: float
    centroid: tuple[float, float]
    outline: tuple[float, ...]


def find_regions(
    anomaly_map: npt.NDArray[np.float32], threshold: float, size: tuple[int, int], min_area: float = 0
) -> list[Region]:
    """Find the connected regions above a threshold; pixels that touch at a corner are connected.

    Args:
        anomaly_map: Anomaly map of shape ``(H, W)``.
        threshold: A pixel above it is anomalous.
        size: Height and width of the image. A pixel of the map stands for as many of its pixels as there are.
        min_area: Smallest area of a region, in pixels of the image.

    Returns:
        The regions, that with the highest peak first.

    Example:
        >>> anomaly_map = np.zeros((4, 4), np.float32)
        >>> anomaly_map[1, 1:3] = 0.75
        >>> (region,) = find_regions(anomaly_map, 0.5, (8, 8))
        >>> region.box, region.area, region.area_percent, region.peak, region.centroid
        ((2.0, 2.0, 4.0, 2.0), 8.0, 12.5, 0.75, (4.0, 3.0))
        >>> find_regions(anomaly_map, 0.5, (8, 8), min_area=9)
        []
    """
    height, width = anomaly_map.shape
    down, across = size[0] / height, size[1] / width
    above = (anomaly_map > threshold).astype(np.uint8)
    count, labels, statistics, centroids = cv2.connectedComponentsWithStats(above, connectivity=8)
    found = []
    for label in range(1, count):  # 0 is what is not above
        left, top, wide, high, pixels = map(int, statistics[label])
        area = pixels * down * across
        if area < min_area:
            continue
        inside = np.s_[top : top + high, left : left + wide]
        is_here = labels[inside] == label
        x, y = centroids[label] + 0.5  # OpenCV counts from the middle of the first pixel
        corners = np.add(_outline(is_here), (left, top))
        found.append(
            Region(
                box=(_round(left * across), _round(top * down), _round(wide * across), _round(high * down)),
                area=_round(area),
                area_percent=_round(100 * pixels / anomaly_map.size),
                peak=float(f"{anomaly_map[inside][is_here].max():.6g}"),
                centroid=(_round(x * across), _round(y * down)),
                outline=tuple(map(_round, (corners * (across, down)).ravel())),
            )
        )
    return sorted(found, key=lambda region: -region.peak)


def _round(value: float) -> float:
    return round(float(value), 2)


def _outline(is_inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the outer outline along the edges of pixels, as corners of shape ``(N, 2)``.

    OpenCV's outlines run through the middles of pixels, so that of a single one would be a point.
    """
    corners = np.zeros((is_inside.shape[0] + 1, is_inside.shape[1] + 1), np.uint8)
    for part in (np.s_[:-1, :-1], np.s_[:-1, 1:], np.s_[1:, :-1], np.s_[1:, 1:]):
        corners[part] |= is_inside
    outlines, _ = cv2.findContours(corners, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return np.asarray(outlines[0][:, 0], np.int32)


def draw_outlines(image: ImageArray, regions: Sequence[Region], size: tuple[int, int]) -> ImageArray:
    """Draw the outlines of regions.

    Args:
        image: A picture of shape ``(H, W, 3)`` with values of 8 bits.
        regions: The regions.
        size: Height and width of the image that the regions are of.

    Returns:
        The picture with outlines.

    Example:
        >>> region = Region((2, 2, 4, 4), 16, 25, 0.75, (4, 4), (2, 2, 2, 6, 6, 6, 6, 2))
        >>> draw_outlines(np.full((8, 8, 3), 100, np.uint8), [region], (8, 8))[2, 4].tolist()
        [255, 255, 255]
    """
    drawn: Any = np.ascontiguousarray(image)
    height, width = drawn.shape[:2]
    scale = np.array([width / size[1], height / size[0]])
    lines = [
        np.rint((np.array(region.outline).reshape(-1, 2) * scale).clip(0, (width - 1, height - 1))).astype(np.int32)
        for region in regions
    ]
    thickness = max(1, min(height, width) // _LINES_ACROSS)
    if thickness > 1:
        cv2.polylines(drawn, lines, True, _EDGE, 2 * thickness)
    cv2.polylines(drawn, lines, True, _LINE, thickness)
    return drawn  # type: ignore[no-any-return]
