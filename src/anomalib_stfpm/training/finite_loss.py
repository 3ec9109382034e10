"""Stop training at a loss that is not finite, and say why, before the optimiser ruins the student."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import ImageBatch

from anomalib_stfpm.torch_model import Pyramids, StfpmModel

_LARGE = 1e6  # larger weights do not occur in a network that learns


def require_finite(
    loss: torch.Tensor,
    epoch: int,
    levels: Sequence[str | int],
    batch: ImageBatch,
    pyramids: Pyramids,
    model: StfpmModel,
) -> None:
    """Check the loss of a pre-processed batch and its teacher and student pyramids.

    Raises:
        ValueError: If the loss is not finite. The message names epoch, level and likely reason.
    """
    if loss.isfinite():
        return
    not_finite = [
        level for level, *features in zip(levels, *pyramids, strict=True) if not all(map(_is_finite, features))
    ]
    where = f"at level '{not_finite[0]}' of the feature pyramid" if not_finite else "though all features are finite"
    reason = _reason(batch, pyramids, model) if not_finite else "lower level_weights."
    msg = f"The loss of epoch {epoch} is {loss.item()}, {where}: {reason}"
    raise ValueError(msg)


def _reason(batch: ImageBatch, pyramids: Pyramids, model: StfpmModel) -> str:
    images: Any = batch.image
    for position, image in enumerate(images):
        if not _is_finite(image):
            named = f"'{batch.image_path[position]}'" if batch.image_path else "an image"
            return f"{named} is not finite once it is pre-processed; look at it and at the pre-processor's transform."
    if not all(map(_is_finite, model.teacher.state_dict().values())):
        return "the teacher's weights are not finite; give teacher_weights another file."
    # The running statistics are not finite either by now, so look at the weights only.
    if not all(bool(weight.abs().max() < _LARGE) for weight in model.student.parameters()):
        return "the student's weights have grown beyond all bounds; train with a lower learning_rate."
    if any(level.dtype == torch.float16 for pyramid in pyramids for level in pyramid):
        return "the features are too large for 16 bits; train with another precision, bf16-mixed or 32."
    return "the student's features have grown beyond all bounds; train with a lower learning_rate."


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())
