"""PRO in both conventions equals a slow reference implementation."""

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AnomalibMetric

from anomalib_stfpm.components.published_pro import PublishedPRO
from tests.unit import reference


def images(seed: int, count: int = 3, size: tuple[int, int] = (24, 20)) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps with ties that find defects only in part, and masks with several regions, some touching at a corner."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, *size), dtype=bool)
    for mask in masks[1:]:  # the first image is a good one
        for _ in range(3):
            row, column = (int(generator.integers(0, length - 4)) for length in size)
            mask[row : row + 3, column : column + 4] = True
        mask[0, 0] = mask[1, 1] = True
    maps = generator.gamma(2, 1, size=masks.shape) + generator.uniform(0, 4, size=(count, 1, 1)) * masks
    return torch.tensor(np.round(maps, 1), dtype=torch.float32), torch.tensor(masks)


def measured(metric: AnomalibMetric, maps: torch.Tensor, masks: torch.Tensor) -> float:
    """The metric's value, with the images given one after the other."""
    for anomaly_map, mask in zip(maps, masks, strict=True):
        image = torch.zeros(1, 3, *anomaly_map.shape)
        metric.update(ImageBatch(image=image, anomaly_map=anomaly_map[None], gt_mask=mask[None]))
    return float(metric.compute())


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("thresholds", "fpr_limit"), [(4000, 0.3), (50, 0.3), (300, 0.05), (300, 1.0)])
def test_published_pro_equals_the_reference(seed: int, thresholds: int, fpr_limit: float) -> None:
    maps, masks = images(seed)
    metric = PublishedPRO(thresholds=thresholds, fpr_limit=fpr_limit)
    expected = reference.published_pro(maps.double().numpy(), masks.numpy(), thresholds, fpr_limit)
    assert measured(metric, maps, masks) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_anomalibs_aupro_equals_the_reference(seed: int) -> None:
    maps, masks = images(seed)
    metric = AUPRO(fields=["anomaly_map", "gt_mask"])
    expected = reference.aupro(maps.double().numpy(), masks.numpy())
    assert measured(metric, maps, masks) == pytest.approx(expected, abs=1e-6)


def test_images_of_several_processes_are_gathered() -> None:
    maps, masks = images(0, count=5)
    other = PublishedPRO()
    measured(other, maps[1::2], masks[1::2])
    gathered = iter([torch.cat(other.maps), torch.cat(other.masks)])
    metric = PublishedPRO(
        distributed_available_fn=lambda: True, dist_sync_fn=lambda own, **_: [own, next(gathered)]
    )  # fmt: skip
    order = [0, 2, 4, 1, 3]
    assert measured(metric, maps[::2], masks[::2]) == measured(PublishedPRO(), maps[order], masks[order])


def test_the_two_conventions_differ_in_value_and_name() -> None:
    maps, masks = images(0)
    published, aupro = PublishedPRO(), AUPRO(fields=["anomaly_map", "gt_mask"])
    assert (published.name, aupro.name) == ("PublishedPRO", "AUPRO")
    assert measured(published, maps, masks) != pytest.approx(measured(aupro, maps, masks), abs=1e-3)


@pytest.mark.parametrize("value", [-3.0, 0.0, 7.0])
def test_a_constant_map_scores_zero(value: float) -> None:
    _, masks = images(0)
    assert measured(PublishedPRO(), torch.full(masks.shape, value), masks) == 0


def test_a_perfect_map_scores_one() -> None:
    _, masks = images(0)
    assert measured(PublishedPRO(), masks.float(), masks) == 1


def test_without_defects_or_background_the_score_is_zero() -> None:
    maps, masks = images(0)
    assert measured(PublishedPRO(), maps, torch.zeros_like(masks)) == 0
    assert measured(PublishedPRO(), maps, torch.ones_like(masks)) == 0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_map_that_is_not_finite_scores_nan(value: float) -> None:
    maps, masks = images(0)
    maps[0, 3, 3] = value
    assert np.isnan(measured(PublishedPRO(), maps, masks))


def test_maps_may_have_a_channel_axis() -> None:
    maps, masks = images(1)
    batch = ImageBatch(image=torch.zeros(len(maps), 3, *maps.shape[1:]), anomaly_map=maps[:, None], gt_mask=masks)
    metric = PublishedPRO()
    metric.update(batch)
    assert float(metric.compute()) == pytest.approx(measured(PublishedPRO(), maps, masks), abs=1e-6)


def test_images_without_masks_are_skipped_or_rejected() -> None:
    batch = ImageBatch(image=torch.zeros(1, 3, 4, 4), anomaly_map=torch.zeros(1, 4, 4))
    metric = PublishedPRO(strict=False)
    metric.update(batch)
    assert metric.compute() is None
    with pytest.raises(ValueError, match="gt_mask"):
        PublishedPRO().update(batch)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"thresholds": 1}, "thresholds must be at least 2"), ({"fpr_limit": 0}, "fpr_limit must be above 0")],
)
def test_invalid_arguments_are_rejected(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PublishedPRO(**arguments)
