"""What 8 bits are too coarse for stays in floating point, and a model that does not agree is called so."""

import logging

import numpy as np
import openvino
import pytest
from openvino import opset13

from anomalib_stfpm.openvino import Agreement
from anomalib_stfpm.openvino.quantization import left_in_floating_point, quantize

AGREEMENT = Agreement(10, 0.9995, 0.9990, {"image_AUROC": 0.95, "AUPRO": 0.90}, {"image_AUROC": 0.948, "AUPRO": 0.896})


def convolution(source: openvino.Node, inputs: int, name: str) -> openvino.Node:
    weights = opset13.constant([[[[0.5]]] * inputs] * 4, np.float32)
    return opset13.convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1], name=name)


def depthwise(source: openvino.Node, name: str) -> openvino.Node:
    weights = opset13.constant([[[[[0.5]]]]] * 4, np.float32)
    return opset13.group_convolution(source, weights, [1, 1], [0, 0], [0, 0], [1, 1], name=name)


def left(last: openvino.Node, picture: openvino.Node) -> set[str]:
    head = opset13.multiply(last, last, name="head")
    return set(left_in_floating_point(openvino.Model([opset13.result(head)], [picture])).names)


def test_of_a_network_with_activations_only_the_head_stays() -> None:
    picture = opset13.parameter([1, 3, 8, 8], np.float32, name="picture")
    stem = opset13.relu(convolution(picture, 3, "stem"))
    assert left(convolution(stem, 4, "second"), picture) == {"head"}


def test_depthwise_and_unbounded_convolutions_stay_and_the_stem_before_them() -> None:
    picture = opset13.parameter([1, 3, 8, 8], np.float32, name="picture")
    stem = opset13.clamp(convolution(picture, 3, "stem"), 0, 6)
    spatial = opset13.clamp(depthwise(stem, "depthwise"), 0, 6)
    projection = convolution(spatial, 4, "projection")
    assert left(convolution(projection, 4, "expansion"), picture) == {"stem", "depthwise", "expansion", "head"}


def test_what_lies_a_quarter_beyond_normal_pictures_is_not_cut_off() -> None:
    picture = opset13.parameter([1, 3, 8, 8], np.float32, name="picture")
    features = opset13.relu(convolution(opset13.relu(convolution(picture, 3, "stem")), 4, "second"))
    model = openvino.Model([opset13.result(opset13.multiply(features, features))], [picture])
    normal = np.random.default_rng(0).random((1, 3, 8, 8), dtype=np.float32)
    in_float, in_8_bits = (openvino.compile_model(each, "CPU") for each in (model, quantize(model, [normal])))
    for factor in (1.0, 1.2):
        expected, given = (compiled([factor * normal])[0] for compiled in (in_float, in_8_bits))
        assert given == pytest.approx(expected, rel=0.05)
    assert in_8_bits([2 * normal])[0].max() < 0.8 * in_float([2 * normal])[0].max()


def test_a_model_that_agrees_has_no_shortcomings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "anomalib_stfpm"):
        AGREEMENT.log()
    assert AGREEMENT.shortcomings() == []
    assert "agree on 10 held-out pictures: scores correlate at 0.99950, maps at 0.99900" in caplog.text


@pytest.mark.parametrize(
    ("correlation", "aupro", "shortcoming"),
    [
        (0.9989, 0.896, "its scores correlate at 0.9989 (bound 0.999)"),
        (float("nan"), 0.896, "its scores correlate at nan (bound 0.999)"),
        (0.9995, 0.89, "AUPRO falls from 0.9000 to 0.8900 (bound 0.005)"),
    ],
)
def test_a_model_that_does_not_is_called_so(
    correlation: float, aupro: float, shortcoming: str, caplog: pytest.LogCaptureFixture
) -> None:
    quantized = {"image_AUROC": 0.948, "AUPRO": aupro}
    agreement = Agreement(10, correlation, 0.999, AGREEMENT.float_metrics, quantized)
    agreement.log()
    assert agreement.shortcomings() == agreement.as_dict()["shortcomings"] == [shortcoming]
    assert f"does not keep its word on 10 held-out pictures: {shortcoming}" in caplog.text
