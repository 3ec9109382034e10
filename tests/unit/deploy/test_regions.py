"""Regions are the connected pixels above the threshold, in pixels of the image."""

from typing import Any

import cv2
import numpy as np
import pytest

from anomalib_stfpm_deploy.infer.regions import draw_outlines, find_regions


def test_each_connected_part_is_a_region_and_the_highest_comes_first() -> None:
    anomaly_map = np.zeros((10, 20), np.float32)
    anomaly_map[1:3, 2:6] = 0.75
    anomaly_map[3, 6] = 0.625  # touches at a corner
    anomaly_map[8, 15] = 0.875
    first, second = find_regions(anomaly_map, 0.5, (20, 60))
    assert [*first.box, first.area, first.area_percent, first.peak] == [45, 16, 3, 2, 6, 0.5, 0.875]
    assert [*first.centroid] == [46.5, 17]
    assert [*second.box, second.area, second.area_percent, second.peak] == [6, 2, 15, 6, 54, 4.5, 0.75]
    assert sorted(zip(first.outline[::2], first.outline[1::2], strict=True)) == [(45, 16), (45, 18), (48, 16), (48, 18)]


def test_specks_are_left_out() -> None:
    anomaly_map = np.zeros((10, 10), np.float32)
    anomaly_map[0, 0] = anomaly_map[5:7, 5:7] = 1
    assert [region.area for region in find_regions(anomaly_map, 0.5, (20, 20), min_area=5)] == [16]
    assert [region.area for region in find_regions(anomaly_map, 0.5, (20, 20), min_area=4)] == [4, 16]


def test_a_map_that_is_not_above_has_no_region() -> None:
    assert find_regions(np.full((8, 8), 0.5, np.float32), 0.5, (8, 8)) == []


@pytest.mark.parametrize("seed", range(5))
def test_outlines_hold_the_pixels_of_regions_and_areas_add_up(seed: int) -> None:
    noise = np.random.default_rng(seed).random((24, 32), dtype=np.float32)
    anomaly_map: Any = cv2.GaussianBlur(noise, (0, 0), 2)
    threshold = float(np.quantile(anomaly_map, 0.9))
    regions = find_regions(anomaly_map, threshold, (24, 32))
    above = anomaly_map > threshold
    assert sum(region.area for region in regions) == above.sum()
    # How far the middle of each pixel is inside an outline.
    outlines = [np.array(region.outline, np.float32).reshape(-1, 2) for region in regions]
    middles = [(x + 0.5, y + 0.5) for y, x in np.ndindex(24, 32)]
    deepest = [max(cv2.pointPolygonTest(one, middle, True) for one in outlines) for middle in middles]
    depth = np.array(deepest).reshape(24, 32)
    assert (depth >= 0)[above].all()
    assert (depth > 0.01)[~above].mean() < 0.01  # holes, and gaps of one pixel
    assert all(len(region.outline) >= 8 for region in regions)


def test_outlines_are_drawn_on_a_picture_of_another_size() -> None:
    anomaly_map = np.zeros((8, 8), np.float32)
    anomaly_map[2:5, 3:6] = 1
    picture = draw_outlines(np.zeros((40, 40, 3), np.uint8), find_regions(anomaly_map, 0.5, (80, 80)), (80, 80))
    white = np.argwhere(picture[..., 0] == 255)
    assert white.min(axis=0).tolist() == [10, 15]
    assert white.max(axis=0).tolist() == [25, 30]
    assert len(white) == 4 * 15


def test_a_region_up_to_the_edge_is_drawn_inside_the_picture() -> None:
    picture = draw_outlines(
        np.zeros((1000, 1000, 3), np.uint8), find_regions(np.ones((8, 8), np.float32), 0.5, (8, 8)), (8, 8)
    )
    assert picture[500, 999].tolist() == picture[999, 500].tolist() == [255, 255, 255]
