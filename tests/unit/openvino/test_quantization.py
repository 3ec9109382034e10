"""Sensitive operations stay in floating point, and a model that disagrees is reported."""

import logging
import os
import subprocess
import sys

import numpy as np
import openvino
import pytest
from openvino import opset13

from anomalib_stfpm.openvino import Agreement
from anomalib_stfpm.openvino.quantization import floating_point_operations, quantize

AGREEMENT = Agreement(10, 0.9995, 0.9990, {"image_AUROC": 0.95, "AUPRO": 0.90}, {"image_AUROC": 0.948, "AUPRO": 0.896})


def convolution(source: openvino.Node, inputs: int, name: str) -> openvino.Node:
    weights = opset13.constant([[[[0.5]]] * inputs] * 4, np.float32)
    return opset13.convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1], name=name)


def depthwise(source: openvino.Node, name: str) -> openvino.Node:
    weights = opset13.constant([[[[[0.5]]]]] * 4, np.float32)
    return opset13.group_convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1], name=name)


def in_floating_point(last: openvino.Node, image: openvino.Node) -> set[str]:
    head = opset13.multiply(last, last, name="head")
    return set(floating_point_operations(openvino.Model([opset13.result(head)], [image])).names)


def test_only_the_head_of_a_plain_network_stays_in_floating_point() -> None:
    image = opset13.parameter([1, 3, 8, 8], np.float32, name="image")
    stem = opset13.relu(convolution(image, 3, "stem"))
    assert in_floating_point(convolution(stem, 4, "second"), image) == {"head"}


def test_a_blur_of_the_map_is_no_part_of_the_network() -> None:
    image = opset13.parameter([1, 3, 8, 8], np.float32, name="image")
    features = convolution(image, 3, "stem")
    squared = opset13.multiply(features, features, name="squared")
    anomaly_map = opset13.reduce_sum(squared, [1], keep_dims=True, name="map")
    assert in_floating_point(convolution(anomaly_map, 1, "blur"), image) == {"squared", "map", "blur", "head"}


def test_a_resize_of_the_image_and_layer_normalisation_stay_in_floating_point() -> None:
    image = opset13.parameter([1, 3, 16, 8], np.float32, name="image")
    resized = opset13.matmul(opset13.constant(np.ones((8, 16), np.float32)), image, False, False, name="resize")
    stem = opset13.relu(convolution(resized, 3, "stem"))
    normalised = opset13.mvn(stem, [1], True, 1e-6, "inside_sqrt", name="normalisation")
    last = convolution(opset13.relu(normalised), 4, "last")
    assert in_floating_point(last, image) == {"resize", "normalisation", "head"}


def test_depthwise_and_unbounded_convolutions_stay_in_floating_point() -> None:
    image = opset13.parameter([1, 3, 8, 8], np.float32, name="image")
    stem = opset13.clamp(convolution(image, 3, "stem"), 0, 6)
    spatial = opset13.clamp(depthwise(stem, "depthwise"), 0, 6)
    projection = convolution(spatial, 4, "projection")
    assert in_floating_point(convolution(projection, 4, "expansion"), image) == {
        "stem",
        "depthwise",
        "expansion",
        "head",
    }


def test_features_a_quarter_beyond_the_calibration_range_are_not_cut_off() -> None:
    image = opset13.parameter([1, 3, 8, 8], np.float32, name="image")
    features = opset13.relu(convolution(opset13.relu(convolution(image, 3, "stem")), 4, "second"))
    model = openvino.Model([opset13.result(opset13.multiply(features, features))], [image])
    normal = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    in_float, in_8_bits = (openvino.compile_model(each, "CPU") for each in (model, quantize(model, [normal])))
    for factor in (1.0, 1.2):
        expected, given = (compiled([factor * normal])[0] for compiled in (in_float, in_8_bits))
        assert given == pytest.approx(expected, rel=0.05, abs=0.02 * float(expected.max()))
    assert in_8_bits([2 * normal])[0].max() < 0.8 * in_float([2 * normal])[0].max()


def test_sums_do_not_overflow_on_a_processor_without_vnni() -> None:
    """Weights in 8 bits overflow the 16-bit sums of such a processor; OpenVINO can be told to act as if on one."""
    this_test = f"{__file__}::{test_features_a_quarter_beyond_the_calibration_range_are_not_cut_off.__name__}"
    without_vnni = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", this_test],
        env=without_vnni, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert tested.returncode == 0, tested.stdout


def test_a_model_within_the_bounds_has_no_shortcomings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "anomalib_stfpm"):
        AGREEMENT.log()
    assert AGREEMENT.shortcomings() == []
    assert "agree on 10 held-out images: scores correlate at 0.99950, maps at 0.99900" in caplog.text


@pytest.mark.parametrize(
    ("correlation", "aupro", "shortcoming"),
    [
        (0.9989, 0.896, "its scores correlate at 0.9989 (bound 0.999)"),
        (float("nan"), 0.896, "its scores correlate at nan (bound 0.999)"),
        (0.9995, 0.89, "AUPRO falls from 0.9000 to 0.8900 (bound 0.005)"),
    ],
)
def test_a_model_beyond_a_bound_is_reported(
    correlation: float, aupro: float, shortcoming: str, caplog: pytest.LogCaptureFixture
) -> None:
    quantized = {"image_AUROC": 0.948, "AUPRO": aupro}
    agreement = Agreement(10, correlation, 0.999, AGREEMENT.float_metrics, quantized)
    agreement.log()
    assert agreement.shortcomings() == agreement.as_dict()["shortcomings"] == [shortcoming]
    assert f"disagrees with the floating-point model on 10 held-out images: {shortcoming}" in caplog.text
