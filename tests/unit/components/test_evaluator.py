"""The evaluator ranks the model's raw output, however its values are spread over batches."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import AUPRO, AUROC
from sklearn.metrics import roc_auc_score

from anomalib_stfpm import RawEvaluator, Stfpm


class Network(torch.nn.Module):
    """Returns its input."""

    def forward(self, prediction: InferenceBatch) -> InferenceBatch:
        return prediction


def results_of(maps: torch.Tensor, masks: torch.Tensor, evaluator: RawEvaluator) -> dict[str, float]:
    """Give an evaluator predictions in batches of two, and post-processed batches of zeros."""
    module: Any = SimpleNamespace(model=Network())
    trainer: Any = SimpleNamespace(test_dataloaders=None)
    evaluator.on_test_start(None, module)
    for some_maps, some_masks in zip(torch.split(maps, 2), torch.split(masks, 2), strict=True):
        module.model(InferenceBatch(pred_score=some_maps.amax(dim=(1, 2)), anomaly_map=some_maps.unsqueeze(1)))
        nothing = torch.zeros_like(some_maps)
        batch = ImageBatch(
            image=torch.zeros(len(some_maps), 3, 8, 8), gt_label=some_masks.any(dim=(1, 2)), gt_mask=some_masks,
            pred_score=nothing[:, 0, 0], anomaly_map=nothing,
        )  # fmt: skip
        evaluator.on_test_batch_end(trainer, module, None, batch, 0)
    evaluator.on_test_end(None, module)
    metrics: Any = evaluator.test_metrics
    return {metric.name: float(metric.compute()) for metric in metrics}


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 30.0])
@pytest.mark.parametrize("shift", [0.0, -0.5])
def test_values_of_all_batches_are_ranked_together(scale: float, shift: float) -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(8, 8, 8, dtype=torch.bool)
    masks[::2, 2:5, 2:5] = True
    maps = torch.rand(8, 8, 8, generator=generator) + 0.3 * masks
    maps = scale * (maps * torch.linspace(0.5, 1.5, 8).view(8, 1, 1) + shift)
    evaluator = RawEvaluator(
        [
            AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
            AUROC(fields=["anomaly_map", "gt_mask"], prefix="pixel_"),
            AUPRO(fields=["anomaly_map", "gt_mask"]),
        ]
    )
    results = results_of(maps, masks, evaluator)
    expected = roc_auc_score(masks.any(dim=(1, 2)), maps.amax(dim=(1, 2)))
    assert results["image_AUROC"] == pytest.approx(expected, abs=1e-6)
    assert results["pixel_AUROC"] == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()), abs=1e-6)
    order = maps.flatten().argsort().argsort().view_as(maps) / maps.numel()
    assert results["AUPRO"] == pytest.approx(results_of(order, masks, evaluator_of_aupro())["AUPRO"], abs=1e-4)


def evaluator_of_aupro() -> RawEvaluator:
    return RawEvaluator([AUPRO(fields=["anomaly_map", "gt_mask"])])


def test_the_default_is_anomalibs_metrics_and_aupro() -> None:
    names = [metric.name for metric in Stfpm.configure_evaluator().test_metrics]
    assert names == [
        "image_AUROC",
        "image_F1Score",
        "pixel_AUROC",
        "pixel_F1Score",
        "AUPRO",
        "PointingGame",
        "CoveredAUROC",
    ]
