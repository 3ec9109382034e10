"""The distance between teacher and student that both the loss and the anomaly map are made of."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.linalg import vector_norm

_SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize has it
_NUMBERS_IN_CACHE = 2**19


def normalised(features: torch.Tensor) -> torch.Tensor:
    """Divide every feature vector by its Euclidean norm over the channels (paper, equation 1).

    Args:
        features: Tensor of shape ``(N, C, H, W)``.

    Returns:
        Tensor of the same shape, of at least 32 bits: features of less are normalised in 32 bits.

    Example:
        >>> normalised(torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1)).flatten()
        tensor([0.6000, 0.8000])
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    # torch.nn.functional.normalize expands the norm, which an exported graph would carry out as a copy.
    norm: torch.Tensor = vector_norm(features, dim=1, keepdim=True)
    return features / norm.clamp_min(_SMALLEST_NORM)


def squared_distance(normalised_teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Squared distance at every position of a level; the student's features are normalised here.

    Args:
        normalised_teacher: Tensor of shape ``(N, C, H, W)``.
        student: Tensor of the same shape.

    Returns:
        Tensor of shape ``(N, H, W)``.

    Example:
        >>> teacher, student = (torch.tensor(vector).reshape(1, 2, 1, 1) for vector in ([1.0, 0.0], [0.0, 5.0]))
        >>> squared_distance(teacher, student)
        tensor([[[2.]]])
    """
    return (normalised_teacher - normalised(student)).square().sum(dim=1)


class TrainedSquaredDistance(torch.autograd.Function):
    r""":func:`squared_distance` with its gradient for the student written out.

    Autograd would go through memory some twenty times a level, which on a CPU costs as much as a convolution. There, a
    few images at a time go through all operations while they are in the processor's cache. With
    :math:`n = \lVert s \rVert`, :math:`\hat s = s / n` and :math:`\delta = \hat s - \hat t` the gradient is
    :math:`\frac{2}{n} (\delta - \hat s \, \hat s^T \delta)`. The teacher gets none.
    """

    @staticmethod
    def forward(ctx: Any, normalised_teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:  # noqa: ANN401
        """Compute the distances, see :func:`squared_distance`."""
        dtype = torch.promote_types(student.dtype, torch.float32)
        number, _, height, width = student.shape
        norm = student.new_empty((number, 1, height, width), dtype=dtype)
        distance = student.new_empty((number, height, width), dtype=dtype)
        for few in _few_images(student):
            norm[few] = vector_norm(student[few], dim=1, keepdim=True, dtype=dtype).clamp_min_(_SMALLEST_NORM)
            distance[few] = vector_norm(student[few] / norm[few] - normalised_teacher[few], dim=1).square_()
        ctx.save_for_backward(normalised_teacher, student, norm)
        return distance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:  # noqa: ANN401
        """Compute the gradient for the student."""
        normalised_teacher, student, norm = ctx.saved_tensors
        student_gradient = torch.empty_like(student)
        for few in _few_images(student):
            direction = student[few] / norm[few]
            difference = direction - normalised_teacher[few]
            radial = (direction * difference).sum(dim=1, keepdim=True)
            tangential = difference.addcmul_(direction, radial, value=-1)
            student_gradient[few] = tangential.mul_(2 * gradients[0][few].unsqueeze(1) / norm[few])
        return None, student_gradient


def _few_images(features: torch.Tensor) -> Iterator[slice]:
    number = len(features)
    few = number if features.device.type != "cpu" else max(1, _NUMBERS_IN_CACHE // features[0].numel())
    return (slice(start, start + few) for start in range(0, number, few))


def feature_distances(
    teacher_pyramid: Sequence[torch.Tensor],
    student_pyramid: Sequence[torch.Tensor],
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = squared_distance,
    *,
    teacher_is_normalised: bool = False,
) -> list[torch.Tensor]:
    r"""Squared distance between normalised teacher and student features at every position of every level.

    At level :math:`l` and position :math:`(i, j)` both feature vectors are divided by their Euclidean norm over the
    channels, and the result is :math:`\lVert \hat F_t^l - \hat F_s^l \rVert_2^2` (paper, equation 1, without its factor
    of one half). It lies between 0, where both point the same way, and 4. Features of less than 32 bits are
    normalised in 32 bits.

    Args:
        teacher_pyramid: One ``(N, C_l, H_l, W_l)`` tensor a level.
        student_pyramid: Tensors of the same shapes.
        distance: :func:`squared_distance`, or its equal for training.
        teacher_is_normalised: Whether the teacher's features are normalised already.

    Returns:
        One ``(N, H_l, W_l)`` tensor a level.

    Raises:
        ValueError: If the pyramids differ in their number of levels or a level differs in shape, there is no level, or
            a level is empty or holds whole numbers.
    """
    if not teacher_pyramid or len(teacher_pyramid) != len(student_pyramid):
        msg = (
            "Teacher and student must have the same levels, at least one: "
            f"got {len(teacher_pyramid)} and {len(student_pyramid)}."
        )
        raise ValueError(msg)
    distances = []
    for level, (teacher, student) in enumerate(zip(teacher_pyramid, student_pyramid, strict=True)):
        are_numbers = teacher.is_floating_point() and student.is_floating_point()
        is_empty = not torch.compiler.is_compiling() and teacher.numel() == 0  # an export has symbols
        if teacher.shape != student.shape or teacher.ndim != 4 or is_empty or not are_numbers:
            msg = (
                f"Teacher and student features of level {level} must both be floating-point numbers, at least one, "
                f"of one shape (N, C, H, W): got {tuple(teacher.shape)} and {tuple(student.shape)}."
            )
            raise ValueError(msg)
        distances.append(distance(teacher if teacher_is_normalised else normalised(teacher), student))
    return distances
