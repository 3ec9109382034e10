"""The results that the authors published for MVTec AD, with a ResNet-18."""

from typing import NamedTuple


class PublishedResult(NamedTuple):
    """Published metrics of a category, named as this package names them."""

    pixel_AUROC: float  # noqa: N815  the metrics' names
    image_AUROC: float  # noqa: N815
    PublishedPRO: float


PUBLISHED = {
    "carpet": PublishedResult(0.990292, 0.964286, 0.966061),
    "grid": PublishedResult(0.989622, 0.982456, 0.963767),
    "leather": PublishedResult(0.990707, 0.950747, 0.956661),
    "tile": PublishedResult(0.969067, 0.982323, 0.896640),
    "wood": PublishedResult(0.964588, 0.996491, 0.900518),
    "bottle": PublishedResult(0.987894, 1.000000, 0.959157),
    "cable": PublishedResult(0.957504, 0.935532, 0.894954),
    "capsule": PublishedResult(0.985730, 0.893498, 0.895790),
    "hazelnut": PublishedResult(0.984715, 1.000000, 0.952182),
    "metal_nut": PublishedResult(0.971789, 0.983382, 0.948197),
    "pill": PublishedResult(0.975505, 0.951173, 0.965973),
    "screw": PublishedResult(0.988481, 0.894651, 0.948661),
    "toothbrush": PublishedResult(0.989551, 0.897222, 0.926844),
    "transistor": PublishedResult(0.819404, 0.939167, 0.880923),
    "zipper": PublishedResult(0.987756, 0.961397, 0.868873),
}
