"""The distance between teacher and student that both the loss and the anomaly map are made of."""

from collections.abc import Sequence

import torch
from torch.nn.functional import normalize


def feature_distances(
    teacher_pyramid: Sequence[torch.Tensor], student_pyramid: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    r"""Squared distance between normalised teacher and student features at every position of every level.

    At level :math:`l` and position :math:`(i, j)` both feature vectors are divided by their Euclidean norm over the
    channels, and the result is :math:`\lVert \hat F_t^l - \hat F_s^l \rVert_2^2` (paper, equation 1, without its factor
    of one half). It lies between 0, where both point the same way, and 4. Features of less than 32 bits are
    normalised in 32 bits.

    Args:
        teacher_pyramid: One ``(N, C_l, H_l, W_l)`` tensor a level.
        student_pyramid: Tensors of the same shapes.

    Returns:
        One ``(N, H_l, W_l)`` tensor a level.

    Raises:
        ValueError: If the pyramids differ in their number of levels or a level differs in shape, or there is no level.
    """
    if not teacher_pyramid or len(teacher_pyramid) != len(student_pyramid):
        msg = (
            "Teacher and student must have the same levels, at least one: "
            f"got {len(teacher_pyramid)} and {len(student_pyramid)}."
        )
        raise ValueError(msg)
    return [
        _squared_distance(level, teacher, student)
        for level, (teacher, student) in enumerate(zip(teacher_pyramid, student_pyramid, strict=True))
    ]


def _squared_distance(level: int, teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    if teacher.shape != student.shape or teacher.ndim != 4:
        msg = (
            f"Teacher and student features of level {level} must both be of one shape (N, C, H, W): "
            f"got {tuple(teacher.shape)} and {tuple(student.shape)}."
        )
        raise ValueError(msg)
    teacher, student = (
        normalize(features.to(torch.promote_types(features.dtype, torch.float32)), dim=1)
        for features in (teacher, student)
    )
    return (teacher - student).square().sum(dim=1)
