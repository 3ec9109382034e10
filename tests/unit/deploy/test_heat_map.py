"""Anomaly maps as images."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_stfpm_deploy.heat_map import as_image, as_png, colour, heat_map, heat_map_as_png, levels, overlay
from anomalib_stfpm_deploy.image import resize_antialiased


def test_normal_is_blue_and_anomalous_is_red() -> None:
    coloured = heat_map(np.array([[-3.0, 0.0, 1.0, 3.0]], np.float32), (1, 4))
    assert coloured.tolist() == [[[0, 0, 128], [0, 0, 128], [128, 0, 0], [128, 0, 0]]]


def test_a_heat_map_has_the_requested_size() -> None:
    assert heat_map(np.zeros((8, 8), np.float32), (30, 20)).shape == (30, 20, 3)


def test_an_overlay_mixes_image_and_heat_map() -> None:
    coloured = np.full((8, 8, 3), (100, 0, 0), np.uint8)
    assert np.unique(overlay(np.full((16, 16, 3), 100, np.uint8), coloured).reshape(-1, 3), axis=0).tolist() == [
        [100, 60, 60]
    ]


def test_png_is_lossless() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    decoded = cv2.imdecode(np.frombuffer(as_png(image), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.array_equal(decoded[..., ::-1], image)


def test_the_input_of_the_network_converts_back_to_the_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8)
    assert np.array_equal(as_image(resize_antialiased(image, (10, 12))), image)


@pytest.mark.parametrize("size", [(8, 8), (33, 20)])
def test_a_heat_map_with_a_palette_equals_the_one_in_rgb(size: tuple[int, int]) -> None:
    anomaly_map = np.random.default_rng(0).random((8, 8), dtype=np.float32)
    found = levels(anomaly_map, size)
    with Image.open(io.BytesIO(heat_map_as_png(found))) as read:
        assert read.mode == "P"
        assert np.array_equal(np.asarray(read.convert("RGB")), colour(found))
    decoded = cv2.imdecode(np.frombuffer(heat_map_as_png(found), np.uint8), cv2.IMREAD_COLOR)
    assert decoded is not None
    assert np.array_equal(decoded[..., ::-1], heat_map(anomaly_map, size))
