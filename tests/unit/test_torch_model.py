"""Teacher and student side by side."""

import pytest
import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler

from anomalib_stfpm import MapContrast, MapSmoothing, StfpmLoss, StfpmModel
from anomalib_stfpm.backbone.resize import enlarge
from tests.conftest import random_weights


@pytest.fixture
def model() -> StfpmModel:
    torch.manual_seed(0)
    model = StfpmModel("resnet18", ["layer1", "layer2"])
    model.load_teacher(random_weights("resnet18"))
    return model


def test_no_teacher_parameter_or_running_statistic_moves_while_the_student_trains(model: StfpmModel) -> None:
    teacher_before = {name: value.clone() for name, value in model.teacher.state_dict().items()}
    student_before = {name: value.clone() for name, value in model.student.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)
    loss = StfpmLoss()
    for _ in range(3):
        model.eval()
        model.train()
        optimizer.zero_grad()
        loss(*model(torch.rand(2, 3, 64, 64))).backward()
        optimizer.step()
    assert not any(module.training for module in model.teacher.modules())
    assert all(torch.equal(value, teacher_before[name]) for name, value in model.teacher.state_dict().items())
    assert not any(torch.equal(value, student_before[name]) for name, value in model.student.state_dict().items())


def test_only_the_student_is_trainable(model: StfpmModel) -> None:
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trainable == {f"student.{name}" for name, _ in model.student.named_parameters()}


def test_training_gives_pyramids_and_eval_gives_map_and_its_maximum(model: StfpmModel) -> None:
    images = torch.rand(2, 3, 64, 96)
    teacher_pyramid, student_pyramid = model.train()(images)
    assert [level.shape for level in teacher_pyramid] == [(2, 64, 16, 24), (2, 128, 8, 12)]
    assert [level.shape for level in student_pyramid] == [level.shape for level in teacher_pyramid]
    prediction = model.eval()(images)
    assert isinstance(prediction, InferenceBatch)
    assert prediction.anomaly_map.shape == (2, 1, 64, 96)
    torch.testing.assert_close(prediction.pred_score, prediction.anomaly_map.amax(dim=(-2, -1)))


def test_smoothing_and_contrast_change_maps_and_no_score(model: StfpmModel) -> None:
    images = torch.rand(2, 3, 64, 96)
    paper = model.eval()(images)
    changed = StfpmModel("resnet18", ["layer1", "layer2"], map_smoothing=1.0, map_contrast=0.5).eval()
    changed.load_state_dict(model.state_dict(), strict=False)
    prediction = changed(images)
    assert torch.equal(prediction.pred_score, paper.pred_score)
    product = model.anomaly_map.product(model.teacher_pyramid(images), model.student_pyramid(images), (64, 96))
    expected = enlarge(MapContrast(0.5)(MapSmoothing(1.0)(product)), (64, 96))
    torch.testing.assert_close(prediction.anomaly_map, expected)
    assert not torch.allclose(prediction.anomaly_map, paper.anomaly_map, rtol=0.01)


def test_a_student_with_the_teachers_weights_finds_no_anomaly(model: StfpmModel) -> None:
    model.student.load_state_dict(model.teacher.state_dict())
    assert model.eval()(torch.rand(1, 3, 64, 64)).pred_score.item() == pytest.approx(0, abs=1e-9)


def test_loading_the_teacher_is_remembered_in_the_state(model: StfpmModel) -> None:
    fresh = StfpmModel("resnet18", ["layer1", "layer2"])
    assert not fresh.teacher_is_loaded
    fresh.load_state_dict(model.state_dict())
    assert fresh.teacher_is_loaded


def test_tiles_are_put_together_before_the_map(model: StfpmModel) -> None:
    images = torch.rand(2, 3, 128, 128)
    model.eval().tiler = Tiler(tile_size=64, stride=64)
    with torch.no_grad():
        tiled = model.teacher_pyramid(images)
        corner = model.teacher(images[:, :, :64, 64:])
    assert [level.shape for level in tiled] == [(2, 64, 32, 32), (2, 128, 16, 16)]
    torch.testing.assert_close(tiled[0][:, :, :16, 16:], corner[0])
    assert model(images).anomaly_map.shape == (2, 1, 128, 128)
