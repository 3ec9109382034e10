"""The default evaluator: metrics of raw predictions, with or without masks."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import AUPRO, AnomalibMetric, Evaluator, F1Max
from anomalib.models.components import AnomalibModule
from torch import nn
from torch.nn import ModuleList
from torchmetrics.classification import BinaryPrecisionRecallCurve

from anomalib_stfpm.components.defect_location import CoveredAUROC, PointingGame
from anomalib_stfpm.components.unrepeated_images import count_unrepeated

RANKED_FIELDS = ("pred_score", "anomaly_map")


class RawEvaluator(Evaluator):
    """An evaluator that ranks raw predictions and skips pixel metrics where masks are missing.

    anomalib's post-processor normalises scores and maps around the threshold and clamps them to 0 to 1 before metrics
    see them. Values outside the range seen in validation become equal, so AUROC and AUPRO cannot rank them. If
    validation holds normal images only, that affects a large part of every map. Metrics of ``pred_score`` and
    ``anomaly_map`` therefore use the model's raw output; those of ``pred_label`` and ``pred_mask`` use the
    post-processed batch.

    torchmetrics applies a sigmoid to each batch that holds values outside 0 to 1, and only to those, so values of
    different batches cannot be compared. Curve metrics therefore get all values mapped to 0 to 1 by one function that
    keeps their order.

    Metrics with ``strict=False``, such as anomalib's pixel metrics, are left out of the results if no image had the
    fields that they need.

    Args:
        test_metrics: Metrics to test with.

    Attributes:
        prediction: The model's last output before post-processing; ``None`` if it was not a prediction.

    Example:
        >>> evaluator = RawEvaluator([AUPRO(fields=["anomaly_map", "gt_mask"])])
        >>> [metric.name for metric in evaluator.test_metrics]
        ['AUPRO']
    """

    def __init__(self, test_metrics: list[AnomalibMetric]) -> None:
        super().__init__(test_metrics=test_metrics)
        self.prediction: InferenceBatch | None = None
        self._hook: Any = None

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Record what the model returns."""
        del trainer
        model: Any = pl_module.model
        self._hook = model.register_forward_hook(self._record)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop recording."""
        del trainer, pl_module
        self._hook.remove()
        self.prediction = None

    def _record(self, module: nn.Module, arguments: Any, prediction: Any) -> None:  # noqa: ANN401
        del module, arguments
        self.prediction = prediction if isinstance(prediction, InferenceBatch) else None

    def on_test_batch_end(
        self,
        trainer: pl.Trainer | None,
        pl_module: pl.LightningModule | None,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Update the metrics with a batch; without a trainer in the tiled ensemble, which joins tiles itself."""
        del pl_module, outputs
        number = count_unrepeated(trainer and trainer.test_dataloaders, batch_idx, dataloader_idx, len(batch))
        if number == 0:
            return
        predicted = self.prediction if self.prediction is not None else batch
        metric: Any
        for metric in self.test_metrics:
            is_curve = isinstance(metric, BinaryPrecisionRecallCurve | F1Max)
            values = {}
            for field in metric.fields:
                is_ranked = field in RANKED_FIELDS
                value = getattr(predicted if is_ranked else batch, field)
                value = None if value is None else value[:number]
                values[field] = squashed(value) if is_curve and is_ranked and value is not None else value
            metric.update(SimpleNamespace(**values))  # an ImageBatch would reduce 64 bits to 32

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the metrics that are strict or that any process has updated."""
        all_metrics = self.test_metrics
        in_any = partial(trainer.strategy.reduce_boolean_decision, all=False)
        self.test_metrics = ModuleList(each for each in all_metrics if each.strict or in_any(bool(each.update_called)))
        super().on_test_epoch_end(trainer, pl_module)
        self.test_metrics = all_metrics


def squashed(values: torch.Tensor) -> torch.Tensor:
    """Map values to 0 to 1 and keep their order; 64 bits keep values near 0 apart."""
    values = values.double()
    return 0.5 + 0.5 * values / (1 + values.abs())


def default_evaluator() -> RawEvaluator:
    """Make an evaluator with anomalib's default metrics, AUPRO, and whether the model looks at the defect."""
    metrics = AnomalibModule.configure_evaluator().test_metrics
    aupro = AUPRO(fields=["anomaly_map", "gt_mask"], strict=False)
    return RawEvaluator([*metrics, aupro, PointingGame(strict=False), CoveredAUROC(strict=False)])
