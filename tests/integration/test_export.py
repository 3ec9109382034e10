"""Every backbone trains a step, exports, and predicts the same after export."""

from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch

from anomalib_stfpm import Stfpm
from tests.conftest import random_weights
from tests.unit.test_feature_pyramid import BACKBONES

pytestmark = pytest.mark.integration


def trained_for_a_step(backbone: str, input_size: tuple[int, int] = (64, 64), **others: Any) -> Stfpm:  # noqa: ANN401
    torch.manual_seed(0)
    model = Stfpm(backbone=backbone, input_size=input_size, **others)
    model.model.load_teacher(random_weights(backbone))
    optimizer = model.configure_optimizers()
    before = model.loss(*model.model.train()(torch.rand(4, 3, *input_size)))
    before.backward()
    optimizer.step()
    assert torch.isfinite(before)
    return model.eval()


MAPS: list[dict[str, Any]] = [{"map_contrast": 0.5}, {"map_smoothing": 1.0}]


@pytest.mark.parametrize(
    ("backbone", "others"), [*((name, {}) for name in BACKBONES), *(("resnet18", others) for others in MAPS)]
)
def test_openvino_agrees_with_torch(backbone: str, others: dict[str, Any], tmp_path: Path) -> None:
    model = trained_for_a_step(backbone, **others)
    pictures = torch.rand(2, 3, 80, 100)
    with torch.no_grad():
        expected = model(pictures)
    path = model.to_openvino(tmp_path, input_size=(80, 100))
    compiled = openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = compiled(pictures.numpy())
    scale = expected.anomaly_map.abs().max().item()
    np.testing.assert_allclose(actual["anomaly_map"], expected.anomaly_map, rtol=0, atol=1e-3 * scale)
    np.testing.assert_allclose(actual["pred_score"], expected.pred_score, rtol=1e-3)


def test_a_size_that_is_left_open_takes_any_picture(tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    compiled = openvino.compile_model(model.to_openvino(tmp_path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for height, width in [(64, 64), (90, 120)]:
        pictures = torch.rand(3, 3, height, width)
        with torch.no_grad():
            expected = model(pictures)
        np.testing.assert_allclose(compiled(pictures.numpy())["pred_score"], expected.pred_score, rtol=1e-3)


def test_onnx_export_asks_for_the_opset_that_the_exporter_writes(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import onnx

    path = trained_for_a_step("resnet18").to_onnx(tmp_path)
    assert onnx.load(path).opset_import[0].version == 18
    assert "Traceback" not in "".join(capfd.readouterr())
