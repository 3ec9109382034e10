"""The default post-processor: thresholds and normalisation for validation with normal images only."""

from dataclasses import fields
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torchmetrics.utilities.distributed import gather_all_tensors

from anomalib_stfpm import argument_checks
from anomalib_stfpm.components.unrepeated_images import count_unrepeated
from anomalib_stfpm_deploy.thresholds import FALSE_ALARM_RATE, threshold_of

_MARGIN = 1e-4
"""By which share of itself the image threshold lies above a normal score. Runtimes differ by less."""


class RawThresholds(PostProcessor):
    """anomalib's post-processor, which compares raw predictions with raw thresholds where it does not normalise.

    anomalib compares them with the threshold of normalised predictions, 0.5, so nearly every label is the same.

    Raises:
        ValueError: If a sensitivity is given without normalisation, for it is a place on the normalised scale.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        if not self.enable_normalization and (self.image_sensitivity, self.pixel_sensitivity) != (0.5, 0.5):
            msg = "image_sensitivity and pixel_sensitivity need normalised predictions: leave enable_normalization on."
            raise ValueError(msg)

    @property
    def normalized_image_threshold(self) -> torch.Tensor:
        """What image scores are compared with: the raw threshold where they are not normalised."""
        return super().normalized_image_threshold if self.enable_normalization else self.image_threshold

    @property
    def normalized_pixel_threshold(self) -> torch.Tensor:
        """What pixels are compared with: the raw threshold where they are not normalised."""
        return super().normalized_pixel_threshold if self.enable_normalization else self.pixel_threshold


class NormalPostProcessor(RawThresholds):
    """anomalib's post-processor, with a useful pixel threshold if validation holds normal images only.

    anomalib then uses the highest value of all normal images as the threshold of images and of pixels, and clamps
    values below half of it to zero. The maps of STFPM are products with a long tail, so nearly all of a heat map,
    defects included, would become zero.

    Here the thresholds are those that a given share of all normal images, and of their pixels, exceeds:
    :func:`anomalib_stfpm_deploy.thresholds.threshold_of` estimates that of images. Maps are normalised so that the
    lowest normal value becomes 0, the threshold 0.5, and the value twice as far from the lowest 1.

    If validation holds defects, thresholds and normalisation are anomalib's, except that the image threshold lies
    halfway between anomalib's, which is the score of an image, and the next lower score. Rounding then changes no
    label, and that image counts as defective, as anomalib's search for the best F1 assumes.

    An exported model normalises in three operations instead of anomalib's eight, with the same result.

    Args:
        false_alarm_rate: Share of normal images above the image threshold, and of their pixels above the pixel
            threshold.
        kwargs: Arguments of anomalib's post-processor.

    Raises:
        ValueError: If the rate is not between 0 and 1, or a sensitivity is given without normalisation.
    """

    def __init__(self, false_alarm_rate: float = FALSE_ALARM_RATE, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        meaning = "between 0 and 1, both excluded"
        argument_checks.number("false_alarm_rate", false_alarm_rate, meaning, lambda rate: 0 < rate < 1)
        self.false_alarm_rate = false_alarm_rate
        self._normal: list[ImageBatch] = []
        self._only_normal = True
        self._scores: list[torch.Tensor] = []

    def forward(self, predictions: InferenceBatch) -> InferenceBatch:
        """Normalise and threshold predictions in a model that runs without a trainer."""
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
        """Collect a batch; without a trainer in the tiled ensemble, which joins tiles itself."""
        del batch
        number = count_unrepeated(trainer and trainer.val_dataloaders, batch_idx, dataloader_idx, len(outputs))
        if number == 0:
            return
        if number < len(outputs):
            values = {each.name: getattr(outputs, each.name) for each in fields(outputs)}
            kept = {name: None if value is None else value[:number] for name, value in values.items()}
            outputs = type(outputs)(**kept)
        if outputs.pred_score is not None:
            self._scores.append(outputs.pred_score.flatten())
        # anomalib's search for the best pixel threshold is slow and needs defects: keep normal batches until one comes.
        self._only_normal &= outputs.gt_label is not None and not outputs.gt_label.any()
        if self._only_normal:
            no_images = outputs.image.new_zeros(len(outputs.image), 3, 1, 1)  # saves memory
            self._normal.append(outputs.update(in_place=False, image=no_images))
            return
        unused: Any = (trainer, pl_module)  # anomalib's types do not allow None
        for seen in [*self._normal, outputs]:
            super().on_validation_batch_end(*unused, seen)
        self._normal.clear()

    def on_validation_epoch_end(self, trainer: pl.Trainer | None, pl_module: pl.LightningModule | None) -> None:
        """Compute thresholds and normalisation."""
        only_normal = self._only_normal
        if trainer is not None:
            # All processes must compute the same metrics together.
            only_normal = trainer.strategy.reduce_boolean_decision(only_normal, all=True)
        unused: Any = (trainer, pl_module)
        for batch in self._normal:
            seen = batch.update(in_place=False, anomaly_map=None, gt_mask=None) if only_normal else batch
            super().on_validation_batch_end(*unused, seen)
        super().on_validation_epoch_end(*unused)
        is_alone = trainer is None or trainer.world_size == 1
        if self._scores and self.enable_thresholding:
            scores = torch.cat(self._scores)
            self._set_image_threshold(scores if is_alone else torch.cat(gather_all_tensors(scores)), only_normal)
        self._scores.clear()
        maps = [batch.anomaly_map.flatten() for batch in self._normal if batch.anomaly_map is not None]
        if maps and only_normal:
            pixels = torch.cat(maps)
            self._set_pixel_statistics(pixels if is_alone else torch.cat(gather_all_tensors(pixels)))
        self._normal.clear()
        self._only_normal = True

    def _set_image_threshold(self, scores: torch.Tensor, only_normal: bool) -> None:
        """Set the image threshold, or move anomalib's off the score of an image, so that rounding changes no label."""
        lower = scores[scores < self._image_threshold]
        if only_normal:
            threshold = threshold_of(scores.double().cpu().numpy(), self.false_alarm_rate)
            self._image_threshold.fill_(threshold + _MARGIN * abs(threshold))
        elif len(lower):
            self._image_threshold.copy_((self._image_threshold + lower.max()) / 2)

    def _set_pixel_statistics(self, pixels: torch.Tensor) -> None:
        lowest = pixels.min()
        rank = max(1, round((1 - self.false_alarm_rate) * len(pixels)))
        threshold = pixels.kthvalue(rank).values
        if self.enable_thresholding:
            self._pixel_threshold.copy_(threshold)
        if self.enable_normalization:
            self.pixel_min.copy_(lowest)
            self.pixel_max.copy_(lowest + 2 * (threshold - lowest))


_STEEP = 2.0**20  # replaces an infinite slope where all validation values are equal


def _normalised(
    predictions: Any,  # noqa: ANN401  # a tensor, though anomalib's type allows none
    lowest: torch.Tensor,
    highest: torch.Tensor,
    threshold: torch.Tensor,
) -> torch.Tensor:
    """Normalise as anomalib does; in an exported model, everything but the predictions becomes a constant."""
    threshold = torch.where(threshold.isnan(), (highest + lowest) / 2, threshold)
    one_value = highest == lowest  # then values above the threshold become 1, those below 0
    # OpenVINO computes threshold * scale in advance, so the product must be finite.
    steep = _STEEP / threshold.abs().clamp_min(1e-6)
    scale = torch.where(one_value, steep, 1 / (highest - lowest))
    normalised: torch.Tensor = ((predictions - threshold) * scale + 0.5).clamp(min=0, max=1)
    return normalised
