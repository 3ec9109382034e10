"""Why a loss is not finite, found before the optimiser makes a student of it that can do nothing."""

from collections.abc import Sequence
from typing import Any

import torch
from anomalib.data import ImageBatch

from .remembered_dataset import picture_paths
from .torch_model import Pyramids, StfpmModel

_LARGE = 1e6  # no network that learns has weights beyond


def require_finite(
    loss: torch.Tensor,
    epoch: int,
    levels: Sequence[str | int],
    batch: ImageBatch,
    pyramids: Pyramids,
    model: StfpmModel,
) -> None:
    """Refuse to learn from a loss that is not finite.

    Args:
        loss: The loss of a batch.
        epoch: Number of the epoch.
        levels: Names of the levels.
        batch: Batch with images of shape ``(N, 3, H, W)``, pre-processed.
        pyramids: Features of the teacher and of the student, one ``(N, C_l, H_l, W_l)`` tensor a level each.
        model: Teacher and student.

    Raises:
        ValueError: If the loss is not finite. The message names epoch, level and likely reason.
    """
    if loss.isfinite():
        return
    ruined = [
        str(level) for level, *features in zip(levels, *pyramids, strict=True) if not all(map(_is_finite, features))
    ]
    where = f"at level '{ruined[0]}' of the feature pyramid" if ruined else "though all features are finite"
    reason = _reason(batch, pyramids, model) if ruined else "lower level_weights."
    msg = f"The loss of epoch {epoch} is {loss.item()}, {where}: {reason}"
    raise ValueError(msg)


def _reason(batch: ImageBatch, pyramids: Pyramids, model: StfpmModel) -> str:
    images: Any = batch.image
    for position, image in enumerate(images):
        if not _is_finite(image):
            paths = picture_paths(batch)
            picture = f"'{paths[position]}'" if paths else "a picture"
            return f"{picture} is not finite once it is pre-processed; look at it and at the pre-processor's transform."
    if not all(map(_is_finite, model.teacher.state_dict().values())):
        return "the teacher's weights are not finite; give teacher_weights another file."
    # Not its running statistics, which the features have ruined by now.
    if not all(bool(weight.abs().max() < _LARGE) for weight in model.student.parameters()):
        return "the student's weights have grown beyond all bounds; train with a lower learning_rate."
    if any(level.dtype == torch.float16 for pyramid in pyramids for level in pyramid):
        return "the features are too large for 16 bits; train with another precision, bf16-mixed or 32."
    return "the student's features have grown beyond all bounds; train with a lower learning_rate."


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())
