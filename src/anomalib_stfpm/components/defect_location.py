"""Metrics that tell whether a model looks at the defect, or is right for another reason."""

from typing import Any

import torch
from anomalib.metrics import AnomalibMetric
from torch.nn.functional import max_pool2d
from torchmetrics import Metric
from torchmetrics.classification import BinaryAUROC

from anomalib_stfpm import argument_checks

DEEPEST_STRIDE = 32


class _PointingGame(Metric):
    """The metric itself, on tensors."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: torch.Tensor
    defective: torch.Tensor

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self.add_state("hits", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("defective", default=torch.tensor(0), dist_reduce_fx="sum")

    def update(self, maps: torch.Tensor, masks: torch.Tensor) -> None:
        maps, masks = maps.flatten(1), masks.flatten(1) > 0
        highest = maps.argmax(dim=1, keepdim=True)
        self.hits += masks.gather(1, highest).sum()
        self.defective += masks.any(dim=1).sum()

    def compute(self) -> torch.Tensor:
        return self.hits / self.defective


class PointingGame(AnomalibMetric, _PointingGame):  # type: ignore[misc]  # anomalib's update takes a batch
    """Share of the defective images whose highest point of the anomaly map lies in the defect.

    Args:
        fields: Fields of the batch: maps and masks.
        kwargs: Further arguments of anomalib's ``AnomalibMetric``.

    Shape:
        - Input: a batch with ``anomaly_map`` and ``gt_mask``, each ``(N, H, W)`` or ``(N, 1, H, W)``.
        - Output: a scalar between 0 and 1, not a number if no image is defective.

    Example:
        >>> from types import SimpleNamespace
        >>> metric = PointingGame()
        >>> masks = torch.tensor([[[0, 1], [0, 0]], [[0, 1], [0, 0]], [[0, 0], [0, 0]]])
        >>> metric.update(SimpleNamespace(anomaly_map=torch.tensor([[[0.1, 0.9], [0, 0]]] * 3), gt_mask=masks))
        >>> metric.compute().item()
        1.0

    Reference:
        Zhang et al., Top-down Neural Attention by Excitation Backprop, 2016, https://arxiv.org/abs/1608.00507
    """

    default_fields = ("anomaly_map", "gt_mask")


class _CoveredAUROC(BinaryAUROC):
    """The metric itself, on tensors."""

    def __init__(self, margin: int = DEEPEST_STRIDE, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        argument_checks.count("margin", margin, minimum=0)
        self.margin = margin

    def update(self, maps: torch.Tensor, masks: torch.Tensor) -> None:
        size = maps.shape[-2:]
        maps, masks = maps.reshape(-1, 1, *size), masks.reshape(-1, 1, *size) > 0
        covered = masks.float()
        for window in ((2 * self.margin + 1, 1), (1, 2 * self.margin + 1)):
            covered = max_pool2d(covered, window, stride=1, padding=(window[0] // 2, window[1] // 2))
        seen = (covered == 0).flatten(1).any(dim=1)
        scores = maps.masked_fill(covered > 0, -torch.inf).flatten(1).amax(dim=1)
        super().update(scores[seen], masks.flatten(1).any(dim=1)[seen].long())


class CoveredAUROC(AnomalibMetric, _CoveredAUROC):  # type: ignore[misc]  # anomalib's update takes a batch
    """Image AUROC with the defects covered: the score is the maximum of the map outside of them.

    A model that looks at the defects cannot tell images apart without them, and gets about 0.5. One that gets much more
    is right for another reason, for example because the defective images are darker.

    The masks are widened, because the map of a defect is wider than the defect. An image that is all covered does not
    count.

    Args:
        margin: By how many pixels masks are widened in every direction: the stride of the deepest level.
        fields: Fields of the batch: maps and masks.
        kwargs: Further arguments of anomalib's ``AnomalibMetric``.

    Raises:
        ValueError: If the margin is no whole number, or negative.

    Shape:
        - Input: a batch with ``anomaly_map`` and ``gt_mask``, each ``(N, H, W)`` or ``(N, 1, H, W)``.
        - Output: a scalar between 0 and 1.

    Example:
        >>> from types import SimpleNamespace
        >>> metric = CoveredAUROC(margin=0)
        >>> maps = torch.tensor([[[0.1, 0.9]], [[0.1, 0.1]]])
        >>> metric.update(SimpleNamespace(anomaly_map=maps, gt_mask=torch.tensor([[[0, 1]], [[0, 0]]])))
        >>> metric.compute().item()
        0.5
    """

    default_fields = ("anomaly_map", "gt_mask")
