"""Per-region overlap (PRO) in the convention of STFPM's published results."""

from typing import Any

import numpy as np
import torch
from anomalib.metrics import AnomalibMetric
from scipy import ndimage
from torchmetrics import Metric
from torchmetrics.utilities.compute import auc
from torchmetrics.utilities.data import dim_zero_cat

from anomalib_stfpm import argument_checks

_CHUNK = 2**16  # pixels; arrays of this size fit in a processor's cache


class _PublishedPRO(Metric):
    """The metric itself, on tensors."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    maps: list[torch.Tensor]
    masks: list[torch.Tensor]

    def __init__(self, thresholds: int = 4000, fpr_limit: float = 0.3, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        argument_checks.count("thresholds", thresholds, minimum=2)
        argument_checks.number("fpr_limit", fpr_limit, "above 0 and at most 1", lambda limit: 0 < limit <= 1)
        self.thresholds = thresholds
        self.fpr_limit = fpr_limit
        self.add_state("maps", default=[], dist_reduce_fx="cat")
        self.add_state("masks", default=[], dist_reduce_fx="cat")

    def update(self, maps: torch.Tensor, masks: torch.Tensor) -> None:
        if maps.numel() != masks.numel() or maps.shape[-2:] != masks.shape[-2:]:
            msg = f"anomaly maps and masks must have the same shape: got {tuple(maps.shape)} and {tuple(masks.shape)}."
            raise ValueError(msg)
        size = maps.shape[-2:]
        self.maps.append(maps.reshape(-1, *size))
        self.masks.append(masks.reshape(-1, *size) > 0)

    def compute(self) -> torch.Tensor:
        if not len(self.maps):
            msg = "PublishedPRO has seen no images: update it with maps and masks first."
            raise ValueError(msg)
        maps = dim_zero_cat(self.maps)
        highest, lowest = maps.max().double(), maps.min().double()
        if not (highest - lowest).isfinite():
            return torch.tensor(torch.nan, device=maps.device)
        masks = dim_zero_cat(self.masks)
        if not masks.any() or masks.all() or highest == lowest:
            return torch.tensor(0.0, device=maps.device)
        false_positive_rate, overlap = self.curve()
        within = false_positive_rate <= self.fpr_limit
        return _rescaled_area(false_positive_rate[within], overlap[within]).float()

    def curve(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the false-positive rate and the mean region overlap at each threshold, of shape ``(thresholds,)``.

        Maps must hold more than one value, and masks both background and defects.
        """
        maps, masks = dim_zero_cat(self.maps).double().flatten(), dim_zero_cat(self.masks)
        regions = _regions(masks)
        region_sizes = torch.bincount(regions)
        background = len(maps) - len(regions)
        highest, lowest = maps.max(), maps.min()
        steps = torch.arange(self.thresholds, dtype=torch.double, device=maps.device)
        step = (highest - lowest) / self.thresholds
        thresholds = highest - steps * step
        first = torch.cat([_first_exceeded(piece, thresholds, step) for piece in torch.split(maps, _CHUNK)])
        first_in_regions = first[masks.flatten()]
        false_positives = self._sum_above_thresholds(first) - self._sum_above_thresholds(first_in_regions)
        share_of_region = (1 / region_sizes.double())[regions]
        overlap = self._sum_above_thresholds(first_in_regions, share_of_region) / (len(region_sizes) - 1)
        return false_positives / background, overlap

    def _sum_above_thresholds(self, first: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Sum the weight (1 by default) of the pixels above each threshold."""
        return torch.bincount(first, weight, minlength=self.thresholds + 1)[: self.thresholds].cumsum(0)


def _regions(masks: torch.Tensor) -> torch.Tensor:
    """Return the region number, from 1, of every defective pixel; regions are 8-connected within one image."""
    connected = np.zeros((3, 3, 3))
    connected[1] = 1
    numbers, _ = ndimage.label(masks.cpu().numpy(), connected)
    return torch.from_numpy(numbers).to(masks.device)[masks].long()


def _first_exceeded(maps: torch.Tensor, thresholds: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Return the index of the first threshold that each pixel exceeds, or the number of thresholds if there is none.

    Thresholds fall evenly, so the index is computed and corrected for rounding: a search takes three times as long.
    """
    count = len(thresholds)
    thresholds = torch.cat([thresholds, thresholds.new_tensor([-torch.inf])])
    first = ((thresholds[0] - maps) / step).long().add_(1).clamp_(max=count)
    first -= (maps > thresholds[first - 1]).long()
    first += (maps <= thresholds[first]).long()
    return first


def _rescaled_area(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Stretch both axes to 0 to 1 and compute the area; a curve that does not rise has none."""
    if y[-1] == y[0]:
        return torch.zeros_like(y[0])
    if x[-1] == x[0]:
        return torch.ones_like(y[0])
    area: torch.Tensor = auc((x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0]))
    return area


class PublishedPRO(AnomalibMetric, _PublishedPRO):  # type: ignore[misc]  # anomalib's update takes a batch
    r"""PRO as in the published results of STFPM; anomalib's ``AUPRO`` is another convention.

    Thresholds are spaced evenly from the maximum to the minimum of all maps. At each threshold, the overlap is the
    share of a ground-truth region (8-connected) above it, averaged over the regions of all images. The false-positive
    rate is the share of the background above it. The curve is cut at a rate of 0.3, both axes are stretched to the
    range 0 to 1, and PRO is the area under it.

    ``AUPRO`` uses every value as a threshold, interpolates at the limit of 0.3 and stretches the rate only. Compared
    with it, the published convention gives less where the curve starts high and more where it ends low.

    Args:
        fields: Names of the batch's maps and masks, both of shape ``(N, H, W)`` or ``(N, 1, H, W)``.
        prefix: Prefix of the metric's name.
        strict: Whether a batch without masks is an error.
        thresholds: Number of thresholds; the published results use 4,000.
        fpr_limit: Highest false-positive rate.
        kwargs: Other arguments of torchmetrics' ``Metric``.

    Raises:
        ValueError: If ``thresholds`` or ``fpr_limit`` is out of range, or maps and masks differ in shape.

    Example:
        >>> from anomalib.data import ImageBatch
        >>> maps = torch.linspace(0, 1, 16).reshape(1, 4, 4)
        >>> batch = ImageBatch(image=torch.zeros(1, 3, 4, 4), anomaly_map=maps, gt_mask=maps > 0.8)
        >>> metric = PublishedPRO()
        >>> metric.update(batch)
        >>> metric.compute()
        tensor(1.)
    """

    default_fields = ("anomaly_map", "gt_mask")

    def __init__(
        self,
        fields: tuple[str, str] | None = None,
        prefix: str = "",
        strict: bool = True,
        thresholds: int = 4000,
        fpr_limit: float = 0.3,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        if fields is not None and len(list(fields)) != 2:
            msg = f"fields must be two, of maps and of masks: got {list(fields)}."
            raise ValueError(msg)
        super().__init__(fields, prefix, strict, thresholds=thresholds, fpr_limit=fpr_limit, **kwargs)
