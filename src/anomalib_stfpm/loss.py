"""The training loss of STFPM."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone.feature_distance import TrainedSquaredDistance, feature_distances


class StfpmLoss(nn.Module):
    r"""Feature pyramid matching loss (paper, equations 1 to 3).

    .. math::
        L = \sum_l \alpha_l \, \frac{1}{N H_l W_l} \sum_{n, i, j}
            \tfrac12 \lVert \hat F_t^l(n)_{ij} - \hat F_s^l(n)_{ij} \rVert_2^2

    where :math:`\hat F` are features divided by their norm over the channels. The mean is over positions and over the
    batch, so the gradient does not grow with the batch size.

    Hard mining, which the paper does not have, replaces the mean over all positions by the mean of two: that over all
    positions, and that over the given share of them where the student errs most.

    Note:
        The code that the authors published leaves out the half. ``level_weights=[2, 2, 2]`` gives its gradients.

    Args:
        level_weights: The :math:`\alpha_l`, one a level, shallowest first. ``None`` weighs every level with 1, as the
            paper does.
        hard_mining: Share of the positions of a batch that count as hard, at least 0 and less than 1; 0, as in the
            paper, for no hard mining.

    Raises:
        ValueError: If a weight is negative or not finite, all are zero, or the share is out of range.

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

    def __init__(self, level_weights: Sequence[float] | None = None, hard_mining: float = 0.0) -> None:
        super().__init__()
        meaning = "a share of the positions, at least 0 and less than 1"
        argument_checks.number("hard_mining", hard_mining, meaning, lambda share: 0 <= share < 1)
        self.hard_mining = hard_mining
        checked = None if level_weights is None else argument_checks.weights("level_weights", level_weights)
        weights = None if checked is None else torch.tensor(checked)
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
        level_losses = torch.stack([0.5 * self._mean(distance) for distance in distances])
        if self.level_weights is None:
            return level_losses.sum()
        if len(self.level_weights) != len(level_losses):
            msg = f"level_weights must have one weight a level: got {len(self.level_weights)} for {len(level_losses)}."
            raise ValueError(msg)
        return (self.level_weights * level_losses).sum()

    def _mean(self, distance: torch.Tensor) -> torch.Tensor:
        mean = distance.mean()
        if self.hard_mining == 0:
            return mean
        hardest = distance.flatten().topk(math.ceil(self.hard_mining * distance.numel()), sorted=False).values
        return 0.5 * (mean + hardest.mean())
