"""What a model says of the test images: the same record for every model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC, F1Score
from PIL import Image
from sklearn.metrics import roc_curve

from anomalib_stfpm.components.defect_location import CoveredAUROC, PointingGame
from anomalib_stfpm.components.evaluator import RawEvaluator
from anomalib_stfpm.components.published_pro import PublishedPRO
from anomalib_stfpm.data.image_files import open_image
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.heat_map import heat_map, overlay
from anomalib_stfpm_deploy.image import ImageArray

METRICS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "AUPRO", "PointingGame", "CoveredAUROC")
HITS, MISSES, FALSE_ALARMS = "most confident hits", "worst misses", "worst false alarms"

_FPR_LIMIT = 0.3  # AUPRO's
_POINTS = 200  # of a curve: more are not seen
_SHOWN = 4  # images of each kind
_SHOWN_SIZE = (256, 256)  # of images without a map
_NOTHING = (torch.zeros(0), torch.zeros(0, dtype=torch.bool))
_HOTTEST = 99.5  # percentile of the shown maps that is red


@dataclass(frozen=True)
class Prediction:
    """What a model says of a test image."""

    path: str
    is_defective: bool
    score: float  # before post-processing
    is_anomalous: bool | None  # None of a model without thresholds
    anomaly_map: npt.NDArray[np.float32] | None  # (H, W), before post-processing
    mask: npt.NDArray[np.bool_] | None  # (H, W)


class Predictions(RawEvaluator):
    """An evaluator that also keeps what the model says of every image."""

    def __init__(self) -> None:
        pixels = ["anomaly_map", "gt_mask"]
        super().__init__(
            [
                AUROC(fields=["pred_score", "gt_label"], prefix="image_", strict=False),
                F1Score(fields=["pred_label", "gt_label"], prefix="image_", strict=False),
                AUROC(fields=pixels, prefix="pixel_", strict=False),
                AUPRO(fields=pixels, strict=False),
                PointingGame(strict=False),
                CoveredAUROC(strict=False),
            ]
        )
        self.all: list[Prediction] = []

    def on_test_batch_end(
        self,
        trainer: pl.Trainer | None,
        pl_module: pl.LightningModule | None,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        *args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Update every metric and keep the predictions."""
        super().on_test_batch_end(trainer, pl_module, outputs, batch, *args, **kwargs)
        raw: Any = self.prediction if self.prediction is not None else batch
        values: Any = batch
        maps, masks = (
            None if found is None else found.detach().float().cpu().as_subclass(torch.Tensor).flatten(0, -3).numpy()
            for found in (raw.anomaly_map, values.gt_mask)
        )
        for index, path in enumerate(values.image_path):
            self.all.append(
                Prediction(
                    path=str(path),
                    is_defective=bool(values.gt_label[index]),
                    score=float(raw.pred_score.flatten()[index]),
                    is_anomalous=None if values.pred_label is None else bool(values.pred_label.flatten()[index]),
                    anomaly_map=None if maps is None else maps[index],
                    mask=None if masks is None else masks[index] > 0,
                )
            )


def notes(predictions: list[Prediction]) -> list[str]:
    """Say what could not be measured, and why."""
    found = []
    defective = [prediction for prediction in predictions if prediction.is_defective]
    if not defective:
        found.append("There is no defective test image: nothing of how well defects are found was measured.")
    elif len(defective) == len(predictions):
        found.append("There is no good test image: image AUROC was not measured.")
    if all(prediction.mask is None for prediction in predictions):
        found.append("There are no masks: how well defects are located was not measured.")
    return found


def measured(metrics: Mapping[str, float], predictions: list[Prediction]) -> dict[str, float | None]:
    """Replace by ``None`` the metrics that the test images do not allow."""
    labels = {prediction.is_defective for prediction in predictions}
    masks = [prediction.mask for prediction in predictions if prediction.mask is not None]
    allowed = {
        "image_AUROC": labels == {False, True},
        "image_F1Score": True in labels,
        "pixel_AUROC": any(mask.any() for mask in masks) and not all(mask.all() for mask in masks),
    }
    allowed["AUPRO"] = allowed["pixel_AUROC"]
    allowed["PointingGame"] = any(mask.any() for mask in masks)
    allowed["CoveredAUROC"] = allowed["image_AUROC"] and allowed["pixel_AUROC"]
    return {name: metrics[name] if allowed[name] and name in metrics else None for name in METRICS}


def curves(predictions: list[Prediction]) -> dict[str, list[list[float]]]:
    """Draw ROC of images and, up to 30 % of the good pixels, PRO; each two lists, left out without images or masks."""
    found = {}
    labels = [prediction.is_defective for prediction in predictions]
    if len(set(labels)) == 2:
        false_positives, true_positives, _ = roc_curve(labels, [prediction.score for prediction in predictions])
        found["ROC"] = _thinned(false_positives, true_positives)
    masked = [
        (one.anomaly_map, one.mask) for one in predictions if one.anomaly_map is not None and one.mask is not None
    ]
    maps, masks = (torch.from_numpy(np.stack(parts)) for parts in zip(*masked, strict=True)) if masked else _NOTHING
    if masks.any() and not masks.all() and maps.min() < maps.max():
        metric: Any = PublishedPRO()
        metric.update(ImageBatch(image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=maps, gt_mask=masks))
        false_positive_rate, overlap = metric.curve()
        within = false_positive_rate <= _FPR_LIMIT
        found["PRO"] = _thinned(false_positive_rate[within].numpy(), overlap[within].numpy())
    return found


def _thinned(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> list[list[float]]:
    """Leave out points of a rising curve that lie close to others."""
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    kept = np.unique([0, *np.searchsorted(along, np.linspace(0, along[-1], _POINTS)), len(x) - 1])
    kept = kept[kept < len(x)]
    return [[round(float(value), 5) for value in values[kept]] for values in (x, y)]


def write_images(predictions: list[Prediction], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Write the images that a model is most sure of and those that it errs most in, with heat maps."""
    defective = sorted((one for one in predictions if one.is_defective), key=lambda one: one.score)
    good = sorted((one for one in predictions if not one.is_defective), key=lambda one: one.score)
    shown = {HITS: defective[: -_SHOWN - 1 : -1], MISSES: defective[:_SHOWN], FALSE_ALARMS: good[: -_SHOWN - 1 : -1]}
    maps = [one.anomaly_map for group in shown.values() for one in group if one.anomaly_map is not None]
    coldest, hottest = np.percentile(np.stack(maps), [0, _HOTTEST]) if maps else (0, 1)
    written: dict[str, list[dict[str, Any]]] = {}
    for kind, group in shown.items():
        written[kind] = []
        for number, one in enumerate(group):
            size = _SHOWN_SIZE if one.anomaly_map is None else one.anomaly_map.shape
            parts = {"picture": _read(one.path, (size[0], size[1]))}
            if one.anomaly_map is not None:
                stretched = (one.anomaly_map - coldest) / max(hottest - coldest, np.finfo(np.float32).tiny)
                coloured = heat_map(stretched.astype(np.float32), (size[0], size[1]))
                parts["overlay"] = overlay(parts["picture"], coloured)
            names = {part: f"{kind.replace(' ', '_')}_{number}_{part}.jpg" for part in parts}
            for part, image in parts.items():
                files.write_bytes(folder / names[part], _as_jpeg(image), durable=False)
            written[kind].append({"path": one.path, "score": one.score, "is_anomalous": one.is_anomalous, **names})
    return written


def _read(path: str, size: tuple[int, int]) -> ImageArray:
    return np.asarray(open_image(path).resize(size[::-1], Image.Resampling.BILINEAR))


def _as_jpeg(image: ImageArray) -> bytes:
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()
