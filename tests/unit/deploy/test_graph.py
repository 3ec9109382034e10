"""Clamps of an exported model are found, also where OpenVINO has read them from ONNX."""

import numpy as np
import openvino
import pytest
from openvino import opset13

from anomalib_stfpm_deploy.exported_model import graph


def test_the_clip_of_an_onnx_model_is_removed_as_a_clamp_is() -> None:
    image = opset13.parameter([1, 1, 2, 2], np.float32)
    at_least_0 = opset13.maximum(opset13.constant(0, np.float32), image)
    clipped = opset13.minimum(opset13.constant(1, np.float32), at_least_0)
    clipped.output(0).set_names({"anomaly_map"})
    model = openvino.Model([opset13.result(clipped)], [image])
    values = np.array([[[[-1, 0.5], [1, 3]]]], np.float32)
    graph.fuse_clips(model)
    (found,) = openvino.compile_model(model, "CPU")(values).values()
    assert found.ravel().tolist() == [0, 0.5, 1, 1]
    graph.remove_clamps(model)
    assert "anomaly_map" in model.output(0).get_names()
    (found,) = openvino.compile_model(model, "CPU")(values).values()
    assert found.ravel().tolist() == pytest.approx([-1, 0.5, 1, 3])
