"""Agreement of a quantized model with the floating-point model on held-out images."""

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import openvino
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from torchmetrics.functional.classification import binary_auroc

from anomalib_stfpm.openvino.calibration_images import HeldOut
from anomalib_stfpm.openvino.prediction import predict, without_clamping
from anomalib_stfpm.openvino.signal_stack import signal_stack_kept

logger = logging.getLogger(__name__)

SMALLEST_CORRELATION = 0.999
"""Bound of the Pearson correlation of the image scores."""

LARGEST_DROP = {"image_AUROC": 0.003, "pixel_AUROC": 0.003, "AUPRO": 0.005}
"""Bounds of the drop of each metric."""

_IN_32_BITS = {"INFERENCE_PRECISION_HINT": "f32"}


@dataclass(frozen=True)
class Agreement:
    """Agreement of a quantized model with the floating-point model.

    Args:
        images: Number of images compared.
        score_correlation: Pearson correlation of the scores, before they are clamped.
        map_correlation: Pearson correlation of all pixels of the maps, before they are clamped; ``None`` without maps.
        float_metrics: Metrics of the floating-point model, as far as labels and masks allow.
        quantized_metrics: The same metrics of the quantized model.

    Example:
        >>> agreement = Agreement(10, 0.98, 0.99, {"image_AUROC": 0.95}, {"image_AUROC": 0.95})
        >>> agreement.shortcomings()
        ['its scores correlate at 0.9800 (bound 0.999)']
    """

    images: int
    score_correlation: float
    map_correlation: float | None
    float_metrics: dict[str, float]
    quantized_metrics: dict[str, float]

    def shortcomings(self) -> list[str]:
        """Describe each bound that is not met, in words."""
        found = []
        if not self.score_correlation >= SMALLEST_CORRELATION:
            found.append(f"its scores correlate at {self.score_correlation:.4f} (bound {SMALLEST_CORRELATION})")
        for name, before in self.float_metrics.items():
            after = self.quantized_metrics[name]
            if not before - after <= LARGEST_DROP[name]:
                found.append(f"{name} falls from {before:.4f} to {after:.4f} (bound {LARGEST_DROP[name]})")
        return found

    def log(self) -> None:
        """Log the agreement, as a warning if a bound is not met."""
        shortcomings = self.shortcomings()
        if shortcomings:
            logger.warning(
                "The INT8 model disagrees with the floating-point model on %d held-out images: %s. Use the "
                "floating-point model, or calibrate with more normal images.",
                self.images,
                "; ".join(shortcomings),
            )
        else:
            logger.info(
                "INT8 and floating point agree on %d held-out images: scores correlate at %.5f, maps at %s.",
                self.images,
                self.score_correlation,
                "-" if self.map_correlation is None else f"{self.map_correlation:.5f}",
            )

    def as_dict(self) -> dict[str, Any]:
        """Return all figures, the bounds and the bounds that are not met, as plain values."""
        bounds = {"score_correlation": SMALLEST_CORRELATION, "largest_drop": LARGEST_DROP}
        return {**asdict(self), "bounds": bounds, "shortcomings": self.shortcomings()}


@signal_stack_kept()
def measure_agreement(
    float_model: openvino.Model, quantized_model: openvino.Model, images: Iterable[HeldOut]
) -> Agreement:
    """Compare a quantized model with the floating-point model.

    Args:
        float_model: The floating-point model, with the output ``pred_score`` and, if it has maps, ``anomaly_map``.
        quantized_model: The quantized model.
        images: Images used neither for training nor for calibration.

    Raises:
        ValueError: If there are fewer than two images.

    Example:
        >>> import numpy as np
        >>> from openvino import opset13
        >>> image = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> model = openvino.Model([opset13.reduce_max(image, [1, 2, 3])], [image])
        >>> model.output(0).set_names({"pred_score"})
        >>> images = np.random.default_rng(0).random((3, 1, 3, 8, 8), dtype=np.float32)
        >>> agreement = measure_agreement(model, model.clone(), [HeldOut(one, None, None) for one in images])
        >>> agreement.images, round(agreement.score_correlation, 3)
        (3, 1.0)
    """
    compiled = [
        openvino.compile_model(without_clamping(model), "CPU", _IN_32_BITS) for model in (float_model, quantized_model)
    ]
    pairs = [(predict(compiled[0], held_out), predict(compiled[1], held_out)) for held_out in images]
    if len(pairs) < 2:
        msg = f"INT8 needs at least 2 held-out images to compare models on: the datamodule has {len(pairs)}."
        raise ValueError(msg)
    before, after = ([pair[index] for pair in pairs] for index in range(2))
    has_maps = before[0].anomaly_map is not None
    return Agreement(
        images=len(pairs),
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
    # torchmetrics applies a sigmoid to values outside 0 to 1, which makes all high values equal.
    values = (values - values.min()) / (values.max() - values.min()).clamp_min(torch.finfo(values.dtype).tiny)
    return float(binary_auroc(values, _all(batches, truth).flatten().int()))
