"""Recipes to train with: the original, changes of it, and anomalib's models."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from anomalib.metrics import AUPRO, AUROC, F1Max, F1Score
from anomalib.models.components import AnomalibModule

from anomalib_stfpm import RawEvaluator, Stfpm, available_levels
from anomalib_stfpm.components.defect_location import CoveredAUROC, PointingGame
from anomalib_stfpm.reproduction import authors_stfpm
from benchmarks import peers

Make = Callable[[str, str], AnomalibModule]  # from backbone and teacher weights


@dataclass(frozen=True)
class Variant:
    """A recipe.

    Args:
        make: Makes the model.
        train_batch_size: Images in a training batch.
    """

    make: Make
    train_batch_size: int = 32

    def __call__(self, backbone: str, teacher_weights: str) -> AnomalibModule:
        """Make the model, with the metrics that are compared."""
        model = self.make(backbone, teacher_weights)
        model.evaluator = evaluator()
        return model


def evaluator() -> RawEvaluator:
    """Make an evaluator with the metrics that are compared; ``image_F1Max`` is the best F1 of any threshold."""
    of_images, of_pixels = ["pred_score", "gt_label"], ["anomaly_map", "gt_mask"]
    return RawEvaluator(
        [
            AUROC(fields=of_images, prefix="image_"),
            AUROC(fields=of_pixels, prefix="pixel_", strict=False),
            AUPRO(fields=of_pixels, strict=False),
            PointingGame(strict=False),
            CoveredAUROC(strict=False),
            F1Score(fields=["pred_label", "gt_label"], prefix="image_"),
            F1Max(fields=of_images, prefix="image_"),
        ]
    )


@dataclass(frozen=True)
class Changed:
    """Make this package's model with other arguments than the defaults."""

    arguments: dict[str, Any] = field(default_factory=dict)
    strides: tuple[int, ...] | None = None

    def __call__(self, backbone: str, teacher_weights: str) -> Stfpm:
        """Make the model."""
        layers = None if self.strides is None else _layers(backbone, self.strides)
        return Stfpm(backbone, layers, teacher_weights, visualizer=False, **self.arguments)


def _layers(backbone: str, strides: tuple[int, ...]) -> list[str]:
    """The deepest level of each stride."""
    by_stride = {stride: name for name, stride in available_levels(backbone).items()}
    return [by_stride[stride] for stride in strides]


def _authors(backbone: str, teacher_weights: str) -> Stfpm:
    return authors_stfpm(backbone=backbone, teacher_weights=teacher_weights)


_PAPERS_MAP = {"level_powers": [1.0] * 4}

RECIPES = {
    "original": Variant(_authors),
    "default": Variant(Changed(), 8),
    # without one of its changes, or with another
    "powers of 1": Variant(Changed(_PAPERS_MAP), 8),
    "no hard mining": Variant(Changed({"hard_mining": 0.0}), 8),
    "powers of 1, no hard mining": Variant(Changed({**_PAPERS_MAP, "hard_mining": 0.0}), 8),
    "constant rate": Variant(Changed({"schedule": "constant"}), 8),
    "batch 32": Variant(Changed()),
    "strides 8 to 32": Variant(Changed(strides=(8, 16, 32)), 8),
    "strides 4 to 16": Variant(Changed(strides=(4, 8, 16)), 8),
}
PEERS = {
    "anomalib's Stfpm": Variant(peers.stfpm),
    "PaDiM": Variant(peers.padim),
    "PatchCore": Variant(peers.patchcore),
}
VARIANTS = {**RECIPES, **PEERS}
