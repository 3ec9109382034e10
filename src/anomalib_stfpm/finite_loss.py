"""Why a loss is not finite, found before the optimiser makes a student of it that can do nothing."""

from collections.abc import Sequence

import torch
from torch import nn

from .torch_model import Pyramids, StfpmModel

_LARGE = 1e6  # no network that learns has weights beyond


def require_finite(
    loss: torch.Tensor,
    epoch: int,
    levels: Sequence[str | int],
    images: torch.Tensor,
    pyramids: Pyramids,
    model: StfpmModel,
) -> None:
    """Refuse to learn from a loss that is not finite.

    Args:
        loss: The loss of a batch.
        epoch: Number of the epoch.
        levels: Names of the levels.
        images: The batch, pre-processed, of shape ``(N, 3, H, W)``.
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
    reason = _reason(images, pyramids, model) if ruined else "lower level_weights."
    msg = f"The loss of epoch {epoch} is {loss.item()}, {where}: {reason}"
    raise ValueError(msg)


def _reason(images: torch.Tensor, pyramids: Pyramids, model: StfpmModel) -> str:
    if not _is_finite(images):
        return "a picture is not finite once it is pre-processed; look at it and at the pre-processor's transform."
    if not _has_finite_state(model.teacher):
        return "the teacher's weights are not finite; give teacher_weights another file."
    if not _has_finite_state(model.student) or any(
        bool(each.abs().max() > _LARGE) for each in model.student.parameters()
    ):
        return "the student's weights have grown beyond all bounds; train with a lower learning_rate."
    if any(level.dtype == torch.float16 for pyramid in pyramids for level in pyramid):
        return "the features are too large for 16 bits; train with another precision, bf16-mixed or 32."
    return "the student's features have grown beyond all bounds; train with a lower learning_rate."


def _has_finite_state(network: nn.Module) -> bool:
    return all(map(_is_finite, network.state_dict().values()))


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())
