"""The training loss of STFPM."""

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import nn

from anomalib_stfpm.backbone.feature_distance import TrainedSquaredDistance, feature_distances


class StfpmLoss(nn.Module):
    r"""Feature pyramid matching loss (paper, equations 1 to 3).

    .. math::
        L = \sum_l \alpha_l \, \frac{1}{N H_l W_l} \sum_{n, i, j}
            \tfrac12 \lVert \hat F_t^l(n)_{ij} - \hat F_s^l(n)_{ij} \rVert_2^2

    where :math:`\hat F` are features divided by their norm over the channels. The mean is over positions and over the
    batch, so the gradient does not grow with the batch size.

    Note:
        The code that the authors published leaves out the half. ``level_weights=[2, 2, 2]`` gives its gradients.

    Args:
        level_weights: The :math:`\alpha_l`, one a level, shallowest first. ``None`` weighs every level with 1, as the
            paper does.

    Raises:
        ValueError: If a weight is negative or not finite, or all are zero.

    Shape:
        - Input: two sequences with one ``(N, C_l, H_l, W_l)`` tensor a level, teacher first.
        - Output: a scalar.

    Example:
        >>> teacher, student = ([torch.ones(2, 8, 4, 4)], [torch.ones(2, 8, 4, 4)])
        >>> StfpmLoss()(teacher, student).item()
        0.0

    Reference:
        Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021,
        https://arxiv.org/abs/2103.04257
    """

    level_weights: torch.Tensor | None

    def __init__(self, level_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = None if level_weights is None else torch.tensor(checked_weights(level_weights))
        self.register_buffer("level_weights", weights, persistent=False)

    def forward(
        self,
        teacher_pyramid: Sequence[torch.Tensor],
        student_pyramid: Sequence[torch.Tensor],
        *,
        teacher_is_normalised: bool = False,
    ) -> torch.Tensor:
        """Compute the loss of a batch. Its gradient flows to the student only.

        Args:
            teacher_pyramid: One ``(N, C_l, H_l, W_l)`` tensor a level.
            student_pyramid: Tensors of the same shapes.
            teacher_is_normalised: Whether the teacher's features are normalised already, and need not be again.

        Returns:
            A scalar tensor.

        Raises:
            ValueError: If the pyramids do not match each other or the number of level weights.
        """
        distances = feature_distances(
            teacher_pyramid,
            student_pyramid,
            TrainedSquaredDistance.apply,
            teacher_is_normalised=teacher_is_normalised,
        )
        level_losses = torch.stack([0.5 * distance.mean() for distance in distances])
        if self.level_weights is None:
            return level_losses.sum()
        if len(self.level_weights) != len(level_losses):
            msg = f"level_weights must have one weight a level: got {len(self.level_weights)} for {len(level_losses)}."
            raise ValueError(msg)
        return (self.level_weights * level_losses).sum()


def checked_weights(level_weights: Sequence[float]) -> list[float]:
    """Check the weights of the levels.

    Raises:
        ValueError: If a weight is no number, negative or not finite, or all are zero.

    Example:
        >>> checked_weights((1, 2))
        [1.0, 2.0]
    """
    are_numbers = isinstance(level_weights, Sequence) and all(isinstance(weight, Real) for weight in level_weights)
    weights = [float(weight) for weight in level_weights] if are_numbers else []
    if not any(weights) or not all(0 <= weight < math.inf for weight in weights):
        msg = f"level_weights must be finite numbers, none negative and not all zero: got {weights or level_weights!r}."
        raise ValueError(msg)
    return weights
