"""Scores and maps are finite for every image, and differences beyond the bounds are detected."""

import json
import math
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
from safetensors.torch import load_file

from anomalib_stfpm import Stfpm, StfpmLoss, StfpmModel
from benchmarks.reliability import numbers

from .conftest import tiny_model

pytestmark = pytest.mark.integration


def test_a_bound_rejects_larger_differences() -> None:
    bound = numbers.Agreement(score=0.1, map=0.1, correlation=0.9)
    assert numbers.Agreement(0.1, 0.1, 0.9).is_within(bound)
    for worse in (numbers.Agreement(0.2, 0, 1), numbers.Agreement(0, 0.2, 1), numbers.Agreement(0, 0, 0.8)):
        assert not worse.is_within(bound)
    assert not numbers.Agreement(math.nan, 0, 1).is_within(bound)


def test_a_changed_reference_is_detected() -> None:
    recorded = json.loads(numbers.REFERENCE.read_text(encoding="utf-8"))
    assert numbers.is_on_record(recorded)
    assert not numbers.is_on_record({**recorded, "loss": recorded["loss"] * 1.001})
    assert not numbers.is_on_record({"loss": recorded["loss"]})


PLAIN = {
    "black": torch.zeros(2, 3, 64, 64),
    "white": torch.ones(2, 3, 64, 64),
    "of one colour": torch.tensor([0.2, 0.5, 0.9]).reshape(1, 3, 1, 1).expand(2, 3, 64, 64).contiguous(),
}


@pytest.mark.parametrize("images", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["float32", "bf16"])
def test_uniform_images_give_finite_numbers(images: torch.Tensor, precision: torch.dtype, teacher_file: Path) -> None:
    model = tiny_model(teacher_file, map_contrast=0.5, map_smoothing=1.0).model
    model.load_teacher(load_file(teacher_file))
    with torch.autocast("cpu", precision, enabled=precision is torch.bfloat16):
        loss = StfpmLoss()(*model.train()(images))
        loss.backward()
        with torch.no_grad():
            found = model.eval()(images)
    assert loss.isfinite()
    assert all(weights.grad.isfinite().all() for weights in model.student.parameters())
    assert found.anomaly_map.isfinite().all()
    assert found.pred_score.isfinite().all()


@pytest.mark.parametrize("side", ["teacher", "student", "teacher and student"])
def test_features_that_are_all_zero_give_finite_numbers(side: str) -> None:
    model = StfpmModel("resnet18", ["layer1", "layer2"], map_contrast=0.5, map_smoothing=1.0)
    for name in side.split(" and "):
        for module in getattr(model, name).modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                torch.nn.init.zeros_(module.weight)
    images = torch.rand(2, 3, 64, 64)
    teacher_pyramid, student_pyramid = model.train()(images)
    assert not any(level.any() for level in (teacher_pyramid if "teacher" in side else student_pyramid))
    loss = StfpmLoss()(teacher_pyramid, student_pyramid)
    loss.backward()
    found = model.eval()(images)
    assert loss.isfinite()
    assert all(weights.grad.isfinite().all() for weights in model.student.parameters())
    assert found.anomaly_map.isfinite().all()


def test_an_exported_model_gives_finite_numbers_for_uniform_images(teacher_file: Path, tmp_path: Path) -> None:
    model: Stfpm = tiny_model(teacher_file, post_processor=False, map_contrast=0.5).eval()
    model.model.load_teacher(load_file(teacher_file))
    exported = openvino.compile_model(model.to_openvino(tmp_path), "CPU")
    for images in PLAIN.values():
        found = exported(images.numpy())
        assert all(np.isfinite(values).all() for values in found.values())
