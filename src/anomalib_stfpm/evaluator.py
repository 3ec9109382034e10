"""The default evaluator: anomalib's metrics and AUPRO, with or without masks."""

import lightning.pytorch as pl
from anomalib.metrics import AUPRO, Evaluator
from anomalib.models.components import AnomalibModule
from torch.nn import ModuleList


class MaskOptionalEvaluator(Evaluator):
    """An evaluator that leaves metrics out of the results, without a warning, where no picture had what they need.

    That holds for metrics made with ``strict=False``, as anomalib's pixel metrics are: they get no masks where a data
    set has none.
    """

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log every metric that is strict or has been updated.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        all_metrics = self.test_metrics
        self.test_metrics = ModuleList(metric for metric in all_metrics if metric.strict or metric.update_called)
        super().on_test_epoch_end(trainer, pl_module)
        self.test_metrics = all_metrics


def default_evaluator() -> MaskOptionalEvaluator:
    """Make an evaluator with anomalib's default metrics and AUPRO.

    Returns:
        An evaluator that tests with ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC``, ``pixel_F1Score`` and
        ``AUPRO``.
    """
    metrics = AnomalibModule.configure_evaluator().test_metrics
    return MaskOptionalEvaluator(test_metrics=[*metrics, AUPRO(fields=["anomaly_map", "gt_mask"], strict=False)])
