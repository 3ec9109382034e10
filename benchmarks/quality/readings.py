"""Other ways to make map and score of a trained student: each measured without training again."""

import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import Resize

from anomalib_stfpm import MapContrast, MapSmoothing, Stfpm
from anomalib_stfpm.backbone.feature_distance import feature_distances
from anomalib_stfpm.backbone.resize import enlarge
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.reproduction.run import RESULT_FILE, STUDENT_CHECKPOINT
from anomalib_stfpm.results.output_folder import CONFIGURATION_FILE

Levels = torch.Tensor  # (levels, images, height, width): the level maps, all resized to one size


def product(levels: Levels, normal: Levels) -> torch.Tensor:
    """The product of the levels, as in the paper."""
    del normal
    return levels.prod(dim=0)


def product_by_position(levels: Levels, normal: Levels) -> torch.Tensor:
    """The product of the levels, each divided by its mean over normal images at the same position."""
    return (levels / normal.mean(dim=1, keepdim=True)).prod(dim=0)


def deepest_twice(levels: Levels, normal: Levels) -> torch.Tensor:
    """The product of the levels, with the square of the deepest."""
    return product(levels, normal) * levels[-1]


def plain_sum(levels: Levels, normal: Levels) -> torch.Tensor:
    """The sum of the levels."""
    del normal
    return levels.sum(dim=0)


def sum_of_levels(levels: Levels, normal: Levels) -> torch.Tensor:
    """The sum of the levels, each less its mean and divided by its spread over normal images."""
    return _standardised(levels, normal, (1, 2, 3)).sum(dim=0)


def sum_by_position(levels: Levels, normal: Levels) -> torch.Tensor:
    """The sum of the levels, each less its mean and divided by its spread over normal images at the same position."""
    return _standardised(levels, normal, (1,)).sum(dim=0)


def _standardised(levels: Levels, normal: Levels, dim: tuple[int, ...]) -> torch.Tensor:
    spread = normal.std(dim=dim, keepdim=True, correction=0).clamp_min(1e-6)  # one image alone has none
    return (levels - normal.mean(dim=dim, keepdim=True)) / spread


@dataclass(frozen=True)
class Reading:
    """A way to make map and score.

    Args:
        combine: Makes one map of the levels.
        contrast: Power of the mean of an image's map by which the map, but not the score, is divided.
        smoothing: Standard deviation of a Gaussian blur of the map, but not of the score, in pixels of the map.
        top_share: The score is the mean of this share of the highest values; 0 takes the maximum.
    """

    combine: Callable[[Levels, Levels], torch.Tensor] = product
    contrast: float = 0.0
    smoothing: float = 0.0
    top_share: float = 0.0

    def __call__(self, levels: Levels, normal: Levels, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Make maps of shape ``(N, 1, H, W)`` and scores of shape ``(N,)``."""
        maps = self.combine(levels, normal).unsqueeze(1)
        values = enlarge(maps, size).flatten(1)
        highest = values.topk(max(1, round(self.top_share * values.shape[1]))).values
        shown = MapContrast(self.contrast)(MapSmoothing(self.smoothing)(maps))
        return enlarge(shown, size), highest.mean(dim=1)


READINGS = {
    "as in the paper": Reading(),
    "smoothed 1": Reading(smoothing=1),
    "smoothed 2": Reading(smoothing=2),
    "contrast 0.5": Reading(contrast=0.5),
    "contrast 0.8": Reading(contrast=0.8),
    "contrast 0.5, smoothed 1": Reading(contrast=0.5, smoothing=1),
    "top 0.1 %": Reading(top_share=0.001),
    "top 1 %": Reading(top_share=0.01),
    "by position": Reading(product_by_position),
    "deepest twice": Reading(deepest_twice),
    "deepest twice, smoothed 1": Reading(deepest_twice, smoothing=1),
    "sum": Reading(plain_sum),
    "sum, smoothed 1": Reading(plain_sum, smoothing=1),
    "sum, contrast 0.5": Reading(plain_sum, contrast=0.5),
    "sum by spread, smoothed 1": Reading(sum_of_levels, smoothing=1),
    "sum by position, smoothed 1": Reading(sum_by_position, smoothing=1),
}


def read_all(output: Path, category: str) -> dict[str, list[dict[str, Any]]]:
    """Measure all readings of the students of a category.

    Args:
        output: Folder that a reproduction has written.
        category: The category.

    Returns:
        By reading, a result for each seed.
    """
    root = json.loads((output / CONFIGURATION_FILE).read_text(encoding="utf-8"))["root"]
    results = defaultdict(list)
    for path in sorted((output / category).glob(f"seed_*/{RESULT_FILE}")):
        result = json.loads(path.read_text(encoding="utf-8"))
        model: Any = Stfpm.load_from_checkpoint(path.parent / STUDENT_CHECKPOINT).eval()
        size = tuple(model.hparams["input_size"])
        datamodule = MVTecLayout(
            root=root, category=category, num_workers=0, augmentations=Resize(size, antialias=True),
            val_split_mode="from_train", val_split_ratio=result["configuration"]["protocol"]["val_split_ratio"],
            seed=result["seed"],
        )  # fmt: skip
        datamodule.setup()
        normal, _ = _levels(model, datamodule.val_dataloader())
        levels, batches = _levels(model, datamodule.test_dataloader())
        for name, reading in READINGS.items():
            metrics = _measure(*reading(levels, normal, size), batches)
            results[name].append({"seed": result["seed"], "metrics": metrics})
    return results


@torch.no_grad()
def _levels(model: Any, loader: DataLoader[Any]) -> tuple[Levels, list[ImageBatch]]:  # noqa: ANN401
    levels, batches = [], []
    for batch in loader:
        images = model.pre_processor(batch.image)
        distances = feature_distances(model.model.teacher_pyramid(images), model.model.student_pyramid(images))
        size = (images.shape[-2] // 4, images.shape[-1] // 4)
        levels.append(torch.stack([enlarge(d.unsqueeze(1), size)[:, 0] for d in distances]))
        batches.append(batch)
    return torch.cat(levels, dim=1), batches


def _measure(maps: torch.Tensor, scores: torch.Tensor, batches: list[ImageBatch]) -> dict[str, float]:
    labels: Any = [batch.gt_label for batch in batches]
    metrics = {"image_AUROC": float(roc_auc_score(torch.cat(labels), scores))}
    masks: Any = [batch.gt_mask for batch in batches if batch.gt_mask is not None]
    if masks:
        mask = torch.cat(masks)
        metrics["pixel_AUROC"] = float(roc_auc_score(mask.flatten(), maps.flatten()))
        batch = ImageBatch(image=maps.new_zeros(len(maps), 3, 1, 1), anomaly_map=maps, gt_mask=mask)
        aupro: Any = AUPRO(fields=["anomaly_map", "gt_mask"])
        aupro.update(batch)
        metrics["AUPRO"] = float(aupro.compute())
    return metrics
