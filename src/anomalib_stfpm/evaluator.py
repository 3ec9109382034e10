"""The default evaluator: anomalib's metrics and AUPRO, of raw predictions, with or without masks."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.metrics import AUPRO, AnomalibMetric, Evaluator
from anomalib.models.components import AnomalibModule
from torch import nn
from torch.nn import ModuleList
from torchmetrics.classification import BinaryPrecisionRecallCurve

from .several_processes import counted

RANKED_FIELDS = ("pred_score", "anomaly_map")


class RawEvaluator(Evaluator):
    """An evaluator that ranks raw predictions, and leaves out metrics without a warning where masks are missing.

    anomalib's post-processor normalises scores and maps around the threshold and clamps them to 0 to 1 before metrics
    see them. All that lies beyond the range seen in validation becomes equal, which AUROC and AUPRO then cannot rank:
    a large part of every map where validation holds normal pictures only. Metrics of ``pred_score`` and
    ``anomaly_map`` therefore get what the model itself returns, those of ``pred_label`` and ``pred_mask`` what
    post-processing makes of it.

    torchmetrics squashes scores and maps to 0 to 1 by a sigmoid, batch by batch, if a batch holds anything beyond: a
    batch that does would be ranked against others that do not as if their values were comparable. Metrics that are made
    of its curves therefore get all values squashed in one way that keeps their order.

    Metrics made with ``strict=False``, as anomalib's pixel metrics are, are left out of the results where no picture
    had what they need.

    Args:
        test_metrics: Metrics to test with.

    Attributes:
        prediction: What the model returned last, before post-processing; ``None`` where that is no prediction.

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
        """Start to listen to what the model returns.

        Args:
            trainer: The trainer.
            pl_module: The model, anomalib's module with the network in ``model``.
        """
        del trainer
        model: Any = pl_module.model
        self._hook = model.register_forward_hook(self._remember)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop listening.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del trainer, pl_module
        self._hook.remove()
        self.prediction = None

    def _remember(self, module: nn.Module, arguments: Any, prediction: Any) -> None:  # noqa: ANN401
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
        """Update every metric with the raw or the post-processed batch, each picture once in all processes together.

        Args:
            trainer: The trainer; none in anomalib's tiled ensemble, which has put the batch together from tiles.
            pl_module: Not used.
            outputs: Not used.
            batch: Post-processed batch.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the dataloader.
        """
        del pl_module, outputs
        number = counted(trainer and trainer.test_dataloaders, batch_idx, dataloader_idx, len(batch))
        if number == 0:
            return
        predicted = self.prediction if self.prediction is not None else batch
        metric: Any
        for metric in self.test_metrics:
            is_curve = isinstance(metric, BinaryPrecisionRecallCurve)
            values = {}
            for field in metric.fields:
                is_ranked = field in RANKED_FIELDS
                value = getattr(predicted if is_ranked else batch, field)
                value = None if value is None else value[:number]
                values[field] = _squashed(value) if is_curve and is_ranked and value is not None else value
            metric.update(SimpleNamespace(**values))  # not a batch, which would keep no more than 32 bits

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every metric that is strict or has been updated, in whatever process.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        all_metrics = self.test_metrics
        in_any = partial(trainer.strategy.reduce_boolean_decision, all=False)
        self.test_metrics = ModuleList(each for each in all_metrics if each.strict or in_any(bool(each.update_called)))
        super().on_test_epoch_end(trainer, pl_module)
        self.test_metrics = all_metrics


def _squashed(values: torch.Tensor) -> torch.Tensor:
    """Squash any values to 0 to 1 so that their order stays: in 64 bits, for values near 0 to stay apart."""
    values = values.double()
    return 0.5 + 0.5 * values / (1 + values.abs())


def default_evaluator() -> RawEvaluator:
    """Make an evaluator with anomalib's default metrics and AUPRO.

    Returns:
        An evaluator that tests with ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC``, ``pixel_F1Score`` and
        ``AUPRO``.
    """
    metrics = AnomalibModule.configure_evaluator().test_metrics
    return RawEvaluator([*metrics, AUPRO(fields=["anomaly_map", "gt_mask"], strict=False)])
