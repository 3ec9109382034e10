"""Loss and anomaly map are those of the paper."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from anomalib_stfpm import AnomalyMap, MapContrast, MapSmoothing, StfpmLoss
from tests.unit import reference

SHAPES = {
    "one level": [(2, 5, 6, 6)],
    "two levels": [(1, 8, 8, 8), (1, 16, 4, 4)],
    "three levels": [(2, 4, 8, 12), (2, 6, 4, 6), (2, 8, 2, 3)],
    "four levels, odd sizes": [(1, 3, 7, 9), (1, 5, 5, 4), (1, 7, 3, 2), (1, 9, 1, 1)],
}


def pyramids(shapes: list[tuple[int, ...]], seed: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    teacher = [torch.randn(shape, generator=generator) * 3 for shape in shapes]
    return teacher, [level + torch.randn(level.shape, generator=generator) for level in teacher]


def as_numpy(pyramid: list[torch.Tensor]) -> list[reference.Array]:
    return [level.double().numpy() for level in pyramid]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_loss_equals_the_reference(shapes: list[tuple[int, ...]], seed: int) -> None:
    teacher, student = pyramids(shapes, seed)
    expected = reference.loss(as_numpy(teacher), as_numpy(student), [1.0] * len(shapes))
    assert StfpmLoss()(teacher, student).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_loss_weighs_levels(shapes: list[tuple[int, ...]], seed: int) -> None:
    teacher, student = pyramids(shapes, seed)
    weights = [0.5 + level for level in range(len(shapes))]
    expected = reference.loss(as_numpy(teacher), as_numpy(student), weights)
    assert StfpmLoss(weights)(teacher, student).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("image_size", [(16, 24), (33, 20)])
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_map_equals_the_reference(shapes: list[tuple[int, ...]], image_size: tuple[int, int], seed: int) -> None:
    teacher, student = pyramids(shapes, seed)
    quarter = (image_size[0] // 4, image_size[1] // 4)
    expected = reference.anomaly_map(as_numpy(teacher), as_numpy(student), image_size, quarter)
    actual = AnomalyMap()(teacher, student, image_size)
    assert actual.shape == (len(teacher[0]), 1, *image_size)
    np.testing.assert_allclose(actual.squeeze(1).numpy(), expected, rtol=0, atol=1e-5)


def test_map_size_sets_where_levels_are_multiplied() -> None:
    teacher, student = pyramids(SHAPES["three levels"], seed=0)
    expected = reference.anomaly_map(as_numpy(teacher), as_numpy(student), (32, 48), (10, 12))
    actual = AnomalyMap((10, 12))(teacher, student, (32, 48))
    np.testing.assert_allclose(actual.squeeze(1).numpy(), expected, rtol=0, atol=1e-5)


def test_each_level_map_is_raised_to_its_power() -> None:
    teacher, student = pyramids(SHAPES["two levels"], seed=0)
    expected = reference.anomaly_map(as_numpy(teacher), as_numpy(student), (32, 48), (10, 12), [0.25, 2])
    actual = AnomalyMap((10, 12), [0.25, 2])(teacher, student, (32, 48))
    np.testing.assert_allclose(actual.squeeze(1).numpy(), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="level_powers must have one power a level: got 2 for 1"):
        AnomalyMap(level_powers=[1, 1])(teacher[:1], student[:1], (32, 48))


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_hard_mining_gives_half_of_the_loss_to_the_positions_where_the_student_errs_most(share: float) -> None:
    teacher, student = pyramids(SHAPES["two levels"], seed=0)
    expected = 0.0
    for level in zip(as_numpy(teacher), as_numpy(student), strict=True):
        level_map = reference.squared_distance(*level)
        hardest = np.sort(level_map, axis=None)[-math.ceil(share * level_map.size) :]
        expected += 0.5 * (level_map.mean() + hardest.mean()) / 2
    assert StfpmLoss(hard_mining=share)(teacher, student).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("power", [0.0, 0.5, 0.9])
def test_contrast_divides_by_a_power_of_each_images_mean(power: float) -> None:
    maps = torch.rand(3, 1, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = [each / np.mean(each) ** power for each in maps.numpy()]
    np.testing.assert_allclose(MapContrast(power)(maps), expected, rtol=1e-5)


def test_contrast_leaves_a_map_of_zeros_unchanged() -> None:
    no_anomaly = torch.zeros(1, 1, 4, 4)
    assert torch.equal(MapContrast(0.9)(no_anomaly), no_anomaly)


@pytest.mark.parametrize("power", [-0.1, 1.0, float("nan")])
def test_contrast_out_of_range_raises(power: float) -> None:
    with pytest.raises(ValueError, match="map_contrast must be a power of at least 0 and less than 1"):
        MapContrast(power)


@pytest.mark.parametrize("deviation", [0.5, 1.0, 1.7])
def test_smoothing_is_a_gaussian_blur(deviation: float) -> None:
    maps = torch.rand(3, 1, 20, 24)
    expected = np.stack([gaussian_filter(each, deviation, mode="mirror", truncate=4) for each in maps[:, 0].numpy()])
    np.testing.assert_allclose(MapSmoothing(deviation)(maps)[:, 0], expected, rtol=0, atol=1e-5)


def test_no_smoothing_leaves_maps_as_they_are() -> None:
    maps = torch.rand(3, 1, 20, 24)
    assert MapSmoothing()(maps) is maps


@pytest.mark.parametrize("deviation", [-1.0, float("nan"), float("inf")])
def test_negative_or_infinite_smoothing_raises(deviation: float) -> None:
    with pytest.raises(ValueError, match="map_smoothing must be a standard deviation in pixels, not negative"):
        MapSmoothing(deviation)


def test_smoothing_wider_than_the_map_is_refused() -> None:
    with pytest.raises(ValueError, match="map_smoothing reaches 8 pixels far, which a map of 8 x 12 does not have"):
        MapSmoothing(2.0)(torch.rand(1, 1, 8, 12))


def test_loss_does_not_grow_with_the_batch() -> None:
    teacher, student = pyramids(SHAPES["three levels"], seed=0)
    repeated = [[level.repeat(5, 1, 1, 1) for level in pyramid] for pyramid in (teacher, student)]
    assert StfpmLoss()(*repeated).item() == pytest.approx(StfpmLoss()(teacher, student).item())


def test_half_precision_features_are_compared_in_single_precision() -> None:
    teacher, student = ([level.bfloat16() for level in p] for p in pyramids(SHAPES["two levels"], seed=0))
    assert StfpmLoss()(teacher, student).dtype == torch.float32
    assert AnomalyMap()(teacher, student, (32, 32)).dtype == torch.float32


@pytest.mark.parametrize("weights", [[-1.0, 1.0], [float("nan"), 1.0], [float("inf"), 1.0], [0.0, 0.0], []])
def test_invalid_weights_raise(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="level_weights must be finite"):
        StfpmLoss(weights)


def test_number_of_weights_must_be_that_of_levels() -> None:
    with pytest.raises(ValueError, match="one weight a level: got 2 for 3"):
        StfpmLoss([1, 1])(*pyramids(SHAPES["three levels"], seed=0))


@pytest.mark.parametrize("map_size", [(0, 4), (4, -1), (4,)])
def test_invalid_map_sizes_raise(map_size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="map_size must be a height and a width of at least 1 pixels"):
        AnomalyMap(map_size)


def test_pyramids_must_match() -> None:
    teacher, student = pyramids(SHAPES["two levels"], seed=0)
    with pytest.raises(ValueError, match="same levels, at least one: got 2 and 1"):
        StfpmLoss()(teacher, student[:1])
    with pytest.raises(ValueError, match="same levels, at least one: got 0 and 0"):
        StfpmLoss()([], [])
    with pytest.raises(ValueError, match=r"level 1 .*got \(1, 16, 4, 4\) and \(1, 8, 8, 8\)"):
        AnomalyMap()(teacher, [student[0], student[0]], (32, 32))


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_gradient_is_that_of_autograd_through_the_plain_formula(shapes: list[tuple[int, ...]]) -> None:
    teacher, student = pyramids(shapes, seed=0)
    ours, plain = ([level.double().requires_grad_() for level in student] for _ in range(2))
    StfpmLoss()([level.double() for level in teacher], ours).backward()
    distances = [
        (torch.nn.functional.normalize(t.double()) - torch.nn.functional.normalize(s)).square().sum(1)
        for t, s in zip(teacher, plain, strict=True)
    ]
    torch.stack([0.5 * distance.mean() for distance in distances]).sum().backward()
    for level, expected in zip(ours, plain, strict=True):
        torch.testing.assert_close(level.grad, expected.grad)


def test_gradient_of_half_precision_features_has_their_precision_and_direction() -> None:
    teacher, student = pyramids(SHAPES["one level"], seed=0)
    half, single = student[0].bfloat16().requires_grad_(), student[0].bfloat16().float().requires_grad_()
    StfpmLoss()(teacher, [half]).backward()
    StfpmLoss()(teacher, [single]).backward()
    assert half.grad.dtype == torch.bfloat16
    torch.testing.assert_close(half.grad, single.grad.bfloat16())


def test_normalised_teacher_features_give_the_same_loss_and_map() -> None:
    teacher, student = pyramids(SHAPES["three levels"], seed=0)
    normalised = [torch.nn.functional.normalize(level) for level in teacher]
    loss, anomaly_map = StfpmLoss(), AnomalyMap()
    assert torch.equal(loss(normalised, student, teacher_is_normalised=True), loss(teacher, student))
    maps = (
        anomaly_map(normalised, student, (32, 32), teacher_is_normalised=True),
        anomaly_map(teacher, student, (32, 32)),
    )
    assert torch.equal(*maps)
    unnormalised = loss([2 * level for level in normalised], student, teacher_is_normalised=True)
    assert unnormalised > loss(teacher, student)
