"""Per-region overlap (PRO) in the convention of STFPM's published results."""

from typing import Any

import numpy as np
import torch
from anomalib.metrics import AnomalibMetric
from scipy import ndimage
from torchmetrics import Metric
from torchmetrics.utilities.compute import auc
from torchmetrics.utilities.data import dim_zero_cat

from . import argument_checks

_PIECE = 2**16  # pixels at a time: several arrays of so many fit a processor's cache


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
            msg = "PublishedPRO has seen no pictures: update it with maps and masks first."
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
        """Cut all maps at every threshold.

        They must hold more than one value, and the masks some of the pixels but not all.

        Returns:
            False-positive rate and mean overlap of the regions at each threshold, both rising, of shape
            ``(thresholds,)``.
        """
        maps, masks = dim_zero_cat(self.maps).double().flatten(), dim_zero_cat(self.masks)
        regions = _regions(masks)
        region_sizes = torch.bincount(regions)
        background = len(maps) - len(regions)
        highest, lowest = maps.max(), maps.min()
        steps = torch.arange(self.thresholds, dtype=torch.double, device=maps.device)
        step = (highest - lowest) / self.thresholds
        thresholds = highest - steps * step
        first = torch.cat([_first_exceeded(piece, thresholds, step) for piece in torch.split(maps, _PIECE)])
        first_in_regions = first[masks.flatten()]
        false_positives = self._cumulated(first) - self._cumulated(first_in_regions)
        share_of_region = (1 / region_sizes.double())[regions]
        overlap = self._cumulated(first_in_regions, share_of_region) / (len(region_sizes) - 1)
        return false_positives / background, overlap

    def _cumulated(self, first: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Weight (or number) of the pixels that exceed each threshold."""
        return torch.bincount(first, weight, minlength=self.thresholds + 1)[: self.thresholds].cumsum(0)


def _regions(masks: torch.Tensor) -> torch.Tensor:
    """Number of the region, from 1, of every pixel within one; regions are 8-connected and end with their picture."""
    connected = np.zeros((3, 3, 3))
    connected[1] = 1
    numbers, _ = ndimage.label(masks.cpu().numpy(), connected)
    return torch.from_numpy(numbers).to(masks.device)[masks].long()


def _first_exceeded(maps: torch.Tensor, thresholds: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
    """Index of the first of the evenly falling thresholds that a pixel exceeds; their number if it exceeds none.

    The index is computed, for a search would take three times as long, and set right where rounding has put it beside.
    """
    count = len(thresholds)
    thresholds = torch.cat([thresholds, thresholds.new_tensor([-torch.inf])])
    first = ((thresholds[0] - maps) / step).long().add_(1).clamp_(max=count)
    first -= (maps > thresholds[first - 1]).long()
    first += (maps <= thresholds[first]).long()
    return first


def _rescaled_area(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Area under a curve both of whose axes are stretched to 0 to 1; one that does not rise has none."""
    if y[-1] == y[0]:
        return torch.zeros_like(y[0])
    if x[-1] == x[0]:
        return torch.ones_like(y[0])
    area: torch.Tensor = auc((x - x[0]) / (x[-1] - x[0]), (y - y[0]) / (y[-1] - y[0]))
    return area


class PublishedPRO(AnomalibMetric, _PublishedPRO):  # type: ignore[misc]  # anomalib's update takes a batch
    r"""PRO as in the published results of STFPM; anomalib's ``AUPRO`` is another convention.

    The maps of all pictures are cut at evenly spaced thresholds, from their maximum down to their minimum. At each,
    the overlap is the share of a ground-truth region (8-connected) that lies above it, averaged over all regions of
    all pictures, and the false-positive rate is the share of the background above it. From the part of that curve with
    a rate of up to 0.3 both axes are stretched to the range 0 to 1, then the area is taken.

    ``AUPRO`` takes every value as a threshold, interpolates at the limit of 0.3 and stretches the rate only. The
    published convention therefore gives less where the curve starts high, for a step at the first threshold is
    stretched away, and more where it ends low.

    Args:
        fields: Fields of the batch that hold maps and masks, both of shape ``(N, H, W)`` or ``(N, 1, H, W)``.
        prefix: Put before the metric's name.
        strict: Whether a batch without masks is an error.
        thresholds: Number of thresholds; the published results use 4,000.
        fpr_limit: Highest false-positive rate.
        kwargs: Further arguments of torchmetrics' ``Metric``.

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
