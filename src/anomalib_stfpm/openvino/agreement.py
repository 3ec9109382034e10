"""How far a quantized model agrees with the one in floating point, on pictures that neither was made from."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import openvino
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from torchmetrics.functional.classification import binary_auroc

from .pictures import HeldOut
from .prediction import before_clamping, predicted
from .signal_stack import signal_stack_kept

logger = logging.getLogger(__name__)

SMALLEST_CORRELATION = 0.999
"""Pearson correlation of the image scores below which a quantized model does not keep its word."""

LARGEST_DROP = {"image_AUROC": 0.003, "pixel_AUROC": 0.003, "AUPRO": 0.005}
"""By how much a metric may fall."""

_IN_32_BITS = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Agreement:
    """Agreement of a quantized model with the one in floating point.

    Args:
        pictures: Number of pictures compared.
        score_correlation: Pearson correlation of the scores, before the post-processor clamps them.
        map_correlation: Pearson correlation of all pixels of the maps, before the post-processor clamps them; ``None``
            of models that make none.
        float_metrics: Metrics of the model in floating point; those that labels and masks do not allow are left out.
        quantized_metrics: Metrics of the quantized model.

    Example:
        >>> agreement = Agreement(10, 0.98, 0.99, {"image_AUROC": 0.95}, {"image_AUROC": 0.95})
        >>> agreement.shortcomings()
        ['its scores correlate at 0.9800 (bound 0.999)']
    """

    pictures: int
    score_correlation: float
    map_correlation: float | None
    float_metrics: dict[str, float]
    quantized_metrics: dict[str, float]

    def shortcomings(self) -> list[str]:
        """Say where the agreement is below its bounds.

        Returns:
            A clause for each bound that is not kept.
        """
        found = []
        if not self.score_correlation >= SMALLEST_CORRELATION:
            found.append(f"its scores correlate at {self.score_correlation:.4f} (bound {SMALLEST_CORRELATION})")
        for name, before in self.float_metrics.items():
            after = self.quantized_metrics[name]
            if not before - after <= LARGEST_DROP[name]:
                found.append(f"{name} falls from {before:.4f} to {after:.4f} (bound {LARGEST_DROP[name]})")
        return found

    def log(self) -> None:
        """Say how far the models agree, as a warning where that is below a bound."""
        shortcomings = self.shortcomings()
        if shortcomings:
            logger.warning(
                "The INT8 model does not keep its word on %d held-out pictures: %s. Use the model in floating point, "
                "or calibrate with more normal pictures.",
                self.pictures,
                "; ".join(shortcomings),
            )
        else:
            logger.info(
                "INT8 and floating point agree on %d held-out pictures: scores correlate at %.5f, maps at %s.",
                self.pictures,
                self.score_correlation,
                "-" if self.map_correlation is None else f"{self.map_correlation:.5f}",
            )

    def as_dict(self) -> dict[str, Any]:
        """Make a record of it.

        Returns:
            All figures, the bounds, and what is below them.
        """
        bounds = {"score_correlation": SMALLEST_CORRELATION, "largest_drop": LARGEST_DROP}
        return {**asdict(self), "bounds": bounds, "shortcomings": self.shortcomings()}


@signal_stack_kept()
def measure_agreement(
    float_model: openvino.Model, quantized_model: openvino.Model, pictures: Iterable[HeldOut]
) -> Agreement:
    """Compare a quantized model with the one in floating point.

    Args:
        float_model: The model in floating point, with the outputs ``pred_score`` and ``anomaly_map``.
        quantized_model: The quantized one.
        pictures: Pictures that neither training nor calibration has seen.

    Returns:
        The agreement.

    Raises:
        ValueError: If there are fewer than two pictures.

    Example:
        >>> import numpy as np
        >>> from openvino import opset13
        >>> picture = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> model = openvino.Model([opset13.reduce_max(picture, [1, 2, 3])], [picture])
        >>> model.output(0).set_names({"pred_score"})
        >>> pictures = np.random.default_rng(0).random((3, 1, 3, 8, 8), dtype=np.float32)
        >>> agreement = measure_agreement(model, model.clone(), [HeldOut(one, None, None) for one in pictures])
        >>> agreement.pictures, round(agreement.score_correlation, 3)
        (3, 1.0)
    """
    compiled = [
        openvino.compile_model(before_clamping(model), "CPU", _IN_32_BITS) for model in (float_model, quantized_model)
    ]
    pairs = [(predicted(compiled[0], held_out), predicted(compiled[1], held_out)) for held_out in pictures]
    if len(pairs) < 2:
        msg = f"INT8 needs at least 2 held-out pictures to be compared on: the datamodule has {len(pairs)}."
        raise ValueError(msg)
    before, after = ([pair[index] for pair in pairs] for index in range(2))
    has_maps = before[0].anomaly_map is not None
    return Agreement(
        pictures=len(pairs),
        score_correlation=_correlation(_all(before, "pred_score"), _all(after, "pred_score")),
        map_correlation=_correlation(_all(before, "anomaly_map"), _all(after, "anomaly_map")) if has_maps else None,
        float_metrics=_metrics(before),
        quantized_metrics=_metrics(after),
    )


def _all(batches: list[ImageBatch], field: str) -> torch.Tensor:
    return torch.cat([getattr(batch, field) for batch in batches])


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]).double())[0, 1])


def _metrics(batches: list[ImageBatch]) -> dict[str, float]:
    labelled = [batch for batch in batches if batch.gt_label is not None]
    masked = [batch for batch in labelled if batch.gt_mask is not None and batch.anomaly_map is not None]
    metrics = {}
    if labelled and {bool(label) for label in _all(labelled, "gt_label")} == {False, True}:
        metrics["image_AUROC"] = _auroc(labelled, "pred_score", "gt_label")
    if masked and _all(masked, "gt_mask").any():
        metrics["pixel_AUROC"] = _auroc(masked, "anomaly_map", "gt_mask")
        pro: Any = AUPRO(fields=["anomaly_map", "gt_mask"])
        for batch in masked:
            pro.update(batch)
        metrics["AUPRO"] = float(pro.compute())
    return metrics


def _auroc(batches: list[ImageBatch], prediction: str, truth: str) -> float:
    values = _all(batches, prediction).flatten().double()
    # Between 0 and 1, or torchmetrics would squash them there, and make all high ones equal.
    values = (values - values.min()) / (values.max() - values.min()).clamp_min(torch.finfo(values.dtype).tiny)
    return float(binary_auroc(values, _all(batches, truth).flatten().int()))
