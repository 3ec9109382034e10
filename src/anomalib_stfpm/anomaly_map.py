"""The anomaly map of STFPM: where the student fails to match the teacher."""

from collections.abc import Sequence
from functools import reduce

import torch
from anomalib.models.components import GaussianBlur2d
from torch import nn

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone.feature_distance import feature_distances
from anomalib_stfpm.backbone.resize import enlarge

_SMALLEST = 4  # pixels of an image, for a quarter of it to have one


class AnomalyMap(nn.Module):
    r"""Product of the level maps, upsampled once to the image size (paper, section 3.3).

    The map of a level is the squared distance between normalised teacher and student features. All level maps are
    resized to ``map_size`` and multiplied, and the product is resized to the image, both times bilinearly.

    A power less than 1 reduces the influence of a level: on real parts, maps of fine levels are noisy.

    Args:
        map_size: Height and width at which the level maps are multiplied, in pixels. ``None`` takes a quarter of the
            image, as the original does.
        level_powers: Power of each level map in the product, shallowest first. ``None`` takes 1 for all, as the paper
            does.

    Raises:
        ValueError: If ``map_size`` is no positive height and width, a power is negative or not finite, or all are zero.

    Shape:
        - Input: two sequences with one ``(N, C_l, H_l, W_l)`` tensor a level, teacher first.
        - Output: ``(N, 1, H, W)``.

    Example:
        >>> levels = [torch.rand(2, 8, 16, 16), torch.rand(2, 16, 8, 8)]
        >>> AnomalyMap()(levels, levels, (64, 64)).shape
        torch.Size([2, 1, 64, 64])
    """

    def __init__(self, map_size: tuple[int, int] | None = None, level_powers: Sequence[float] | None = None) -> None:
        super().__init__()
        self.level_powers = None if level_powers is None else argument_checks.weights("level_powers", level_powers)
        self.map_size = None if map_size is None else argument_checks.size("map_size", map_size)

    def forward(
        self,
        teacher_pyramid: Sequence[torch.Tensor],
        student_pyramid: Sequence[torch.Tensor],
        image_size: tuple[int, int] | torch.Size,
        *,
        teacher_is_normalised: bool = False,
    ) -> torch.Tensor:
        """Compute the anomaly maps of a batch.

        Args:
            teacher_pyramid: One ``(N, C_l, H_l, W_l)`` tensor a level.
            student_pyramid: Tensors of the same shapes.
            image_size: Height and width of the images, in pixels.
            teacher_is_normalised: Whether the teacher's features are normalised already, and need not be again.

        Returns:
            Anomaly maps of shape ``(N, 1, H, W)``; higher is more anomalous.

        Raises:
            ValueError: If the pyramids do not match each other or the number of powers, or the images are too small.
        """
        product = self.product(
            teacher_pyramid, student_pyramid, image_size, teacher_is_normalised=teacher_is_normalised
        )
        return enlarge(product, image_size)

    def product(
        self,
        teacher_pyramid: Sequence[torch.Tensor],
        student_pyramid: Sequence[torch.Tensor],
        image_size: tuple[int, int] | torch.Size,
        *,
        teacher_is_normalised: bool = False,
    ) -> torch.Tensor:
        """Compute the anomaly maps of a batch before they are resized to the images.

        Raises:
            ValueError: If the pyramids do not match each other or the number of powers, or the images are too small.
        """
        # An export has symbols for sizes, and a trace tensors.
        if not torch.compiler.is_compiling() and not any(isinstance(side, torch.Tensor) for side in image_size):
            image_size = argument_checks.size("image_size", image_size, 1 if self.map_size else _SMALLEST)
        height, width = image_size
        map_size = self.map_size or (height // 4, width // 4)
        distances = feature_distances(teacher_pyramid, student_pyramid, teacher_is_normalised=teacher_is_normalised)
        powers = self.level_powers or [1.0] * len(distances)
        if len(powers) != len(distances):
            msg = f"level_powers must have one power a level: got {len(powers)} for {len(distances)}."
            raise ValueError(msg)
        level_maps = (
            enlarge((distance if power == 1 else distance**power).unsqueeze(1), map_size)
            for distance, power in zip(distances, powers, strict=True)
        )
        return reduce(torch.mul, level_maps)


class MapSmoothing(nn.Module):
    """Blur maps, before they are resized to the images.

    Args:
        deviation: Standard deviation of a Gaussian, in pixels of the map. 0, as in the original, leaves maps as they
            are.

    Raises:
        ValueError: If the standard deviation is negative or not finite.

    Shape:
        - Input: ``(N, 1, H, W)``.
        - Output: ``(N, 1, H, W)``.

    Example:
        >>> single_pixel = torch.zeros(1, 1, 9, 9)
        >>> single_pixel[..., 4, 4] = 1
        >>> round(MapSmoothing(1.0)(single_pixel).max().item(), 2)
        0.16
    """

    def __init__(self, deviation: float = 0.0) -> None:
        super().__init__()
        meaning = "a standard deviation in pixels, not negative"
        argument_checks.number("map_smoothing", deviation, meaning, lambda pixels: 0 <= pixels < float("inf"))
        self.blur = GaussianBlur2d(deviation) if deviation > 0 else None

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Blur maps.

        Args:
            maps: Maps of shape ``(N, 1, H, W)``.

        Returns:
            Maps of the same shape.

        Raises:
            ValueError: If the blur is wider than the map.
        """
        if self.blur is None:
            return maps
        _check_reach(self.blur, *maps.shape[-2:])
        blurred: torch.Tensor = self.blur(maps)
        return blurred


class MapContrast(nn.Module):
    """Divide the map of an image by a power of its mean.

    An unfamiliar image has high values all over its map, so that its normal pixels can outrank the defects of other
    images. A higher power reduces this effect.

    Args:
        power: Power of the mean, at least 0 and less than 1. 0, as in the original, leaves maps as they are.

    Raises:
        ValueError: If the power is out of range.

    Shape:
        - Input: ``(N, 1, H, W)``, not negative.
        - Output: ``(N, 1, H, W)``.

    Example:
        >>> MapContrast(0.5)(torch.tensor([[[[1.0, 7.0]]], [[[4.0, 28.0]]]])).flatten()
        tensor([0.5000, 3.5000, 1.0000, 7.0000])
    """

    def __init__(self, power: float = 0.0) -> None:
        super().__init__()
        # With 1 all maps would have the same mean, so val_error could not tell students apart.
        meaning = "a power of at least 0 and less than 1"
        argument_checks.number("map_contrast", power, meaning, lambda given: 0 <= given < 1)
        self.power = power

    def forward(self, anomaly_map: torch.Tensor) -> torch.Tensor:
        """Change the contrast of maps.

        Args:
            anomaly_map: Maps of shape ``(N, 1, H, W)``.

        Returns:
            Maps of the same shape.
        """
        if self.power == 0:
            return anomaly_map
        mean = anomaly_map.mean(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(anomaly_map.dtype).tiny)
        return anomaly_map / mean**self.power


def _check_reach(blur: GaussianBlur2d, height: int, width: int) -> None:
    reach = blur.height // 2
    if reach >= min(height, width):
        msg = f"map_smoothing reaches {reach} pixels far, which a map of {height} x {width} does not have: give less."
        raise ValueError(msg)
