"""Thresholds and normalisation of anomaly maps where validation knows no defect."""

from dataclasses import fields
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torchmetrics.utilities.distributed import gather_all_tensors

from .several_processes import counted

NORMAL_PIXELS_BELOW_THRESHOLD = 0.995
"""Share of the pixels of held-out normal pictures that lie below the pixel threshold."""


class NormalPostProcessor(PostProcessor):
    """anomalib's post-processor, with a pixel threshold that makes sense if validation holds normal pictures only.

    anomalib then takes the highest value of all normal maps, for pictures and pixels alike, and clamps to zero whatever
    is below half of it. The maps of STFPM are products with a long tail: nearly all of a heat map, its defects
    included, would become zero. Pictures keep that threshold here, so no held-out picture is a false alarm. That of
    pixels is the value that 99.5 % of the normal pixels lie below, and maps are normalised so that the lowest normal
    value becomes 0, the threshold 0.5, and twice as far from the lowest 1.

    With defects in validation this is anomalib's post-processor. Exported, it does in three operations what anomalib's
    does in eight, to the same result.

    Args:
        kwargs: Arguments of anomalib's ``PostProcessor``.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._normal: list[ImageBatch] = []
        self._only_normal = True

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalise and threshold predictions where the model is used without a trainer.

        Args:
            predictions: Batch with ``pred_score`` of shape ``(N, 1)`` and ``anomaly_map`` of shape ``(N, 1, H, W)``.

        Returns:
            The batch, with ``pred_label`` and ``pred_mask`` too.
        """
        if not (torch.compiler.is_compiling() and self.enable_normalization):
            return super().forward(predictions)
        score = _normalised(predictions.pred_score, self.image_min, self.image_max, self.image_threshold)
        anomaly_map = _normalised(predictions.anomaly_map, self.pixel_min, self.pixel_max, self.pixel_threshold)
        label = score > self.normalized_image_threshold if self.enable_thresholding else None
        mask = anomaly_map > self.normalized_pixel_threshold if self.enable_thresholding else None
        return InferenceBatch(pred_score=score, pred_label=label, anomaly_map=anomaly_map, pred_mask=mask)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer | None,
        pl_module: pl.LightningModule | None,
        outputs: Any,  # noqa: ANN401
        batch: Any = None,  # noqa: ANN401
        batch_idx: int = 0,
        dataloader_idx: int = 0,
    ) -> None:
        """Collect scores and maps, those of each picture once in all processes together.

        Args:
            trainer: The trainer; none in anomalib's tiled ensemble, which has put the batch together from tiles.
            pl_module: Not used.
            outputs: Batch with ``anomaly_map`` of shape ``(N, 1, H, W)`` and ``gt_label`` of shape ``(N,)``.
            batch: Not used.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the dataloader.
        """
        del batch
        number = counted(trainer and trainer.val_dataloaders, batch_idx, dataloader_idx, len(outputs))
        if number == 0:
            return
        if number < len(outputs):
            values = {each.name: getattr(outputs, each.name) for each in fields(outputs)}
            kept = {name: None if value is None else value[:number] for name, value in values.items()}
            outputs = type(outputs)(**kept)
        # anomalib's search for the best pixel threshold is costly, and in vain while no defect has been seen.
        self._only_normal &= outputs.gt_label is not None and not outputs.gt_label.any()
        if self._only_normal:
            without_pictures = outputs.image.new_zeros(len(outputs.image), 3, 1, 1)  # nobody will look at them
            self._normal.append(outputs.update(in_place=False, image=without_pictures))
            return
        unused: Any = (trainer, pl_module)  # anomalib's types allow neither to be none
        for seen in [*self._normal, outputs]:
            super().on_validation_batch_end(*unused, seen)
        self._normal.clear()

    def on_validation_epoch_end(self, trainer: pl.Trainer | None, pl_module: pl.LightningModule | None) -> None:
        """Compute thresholds and normalisation.

        Args:
            trainer: The trainer, or none, see :meth:`on_validation_batch_end`.
            pl_module: Not used.
        """
        only_normal = self._only_normal
        if trainer is not None:
            # All processes of a distributed training must agree on which metrics they compute together.
            only_normal = trainer.strategy.reduce_boolean_decision(only_normal, all=True)
        unused: Any = (trainer, pl_module)
        for batch in self._normal:
            seen = batch.update(in_place=False, anomaly_map=None, gt_mask=None) if only_normal else batch
            super().on_validation_batch_end(*unused, seen)
        super().on_validation_epoch_end(*unused)
        maps = [batch.anomaly_map.flatten() for batch in self._normal if batch.anomaly_map is not None]
        if maps and only_normal:
            pixels = torch.cat(maps)
            is_alone = trainer is None or trainer.world_size == 1
            self._set_pixels(pixels if is_alone else torch.cat(gather_all_tensors(pixels)))
        self._normal.clear()
        self._only_normal = True

    def _set_pixels(self, pixels: torch.Tensor) -> None:
        lowest = pixels.min()
        rank = max(1, round(NORMAL_PIXELS_BELOW_THRESHOLD * len(pixels)))
        threshold = pixels.kthvalue(rank).values
        if self.enable_thresholding:
            self._pixel_threshold.copy_(threshold)
        if self.enable_normalization:
            self.pixel_min.copy_(lowest)
            self.pixel_max.copy_(lowest + 2 * (threshold - lowest))


_STEEP = 2.0**20  # a millionth beyond a threshold of no range is as far as any


def _normalised(
    predictions: Any,  # noqa: ANN401  # a tensor, though anomalib's type allows none
    lowest: torch.Tensor,
    highest: torch.Tensor,
    threshold: torch.Tensor,
) -> torch.Tensor:
    """Normalise as anomalib does, where all but the predictions is known: what is made of constants is one constant."""
    threshold = torch.where(threshold.isnan(), (highest + lowest) / 2, threshold)
    one_value = highest == lowest  # then all above the threshold is 1, and all below 0
    # Times the threshold it must stay finite: OpenVINO computes that product beforehand.
    steep = _STEEP / threshold.abs().clamp_min(1e-6)
    scale = torch.where(one_value, steep, 1 / (highest - lowest))
    normalised: torch.Tensor = ((predictions - threshold) * scale + 0.5).clamp(min=0, max=1)
    return normalised
