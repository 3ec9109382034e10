"""Synthetic defects, drawn into a grey picture together with their masks."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, gaussian_filter
from skimage.draw import disk, line

Picture = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Defect = Callable[[Picture, np.random.Generator], tuple[Picture, Mask]]


def scratch(picture: Picture, generator: np.random.Generator) -> tuple[Picture, Mask]:
    """Draw a thin, bright or dark, slightly bent line.

    Args:
        picture: Grey values between 0 and 1, shape ``(H, W)``.
        generator: Source of all randomness.

    Returns:
        A changed copy of the picture and the mask of its defect, both of shape ``(H, W)``.
    """
    height, width = picture.shape
    angle = generator.uniform(0, np.pi)
    length = generator.uniform(0.35, 0.7) * min(height, width)
    direction = np.array([np.sin(angle), np.cos(angle)]) * length / 2
    centre = _centre(picture, generator, margin=0.35)
    bend = np.array([direction[1], -direction[0]]) * generator.uniform(-0.3, 0.3)
    points = [centre - direction, centre + bend, centre + direction]
    mask = np.zeros(picture.shape, dtype=bool)
    for start, end in pairwise(points):
        rows, columns = line(*start.round().astype(int), *end.round().astype(int))
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        mask[rows[inside], columns[inside]] = True
    mask = binary_dilation(mask, iterations=int(generator.integers(1, 3)))
    return _blend(picture, mask, value=generator.choice([0.05, 0.95]), opacity=0.75)


def blob(picture: Picture, generator: np.random.Generator) -> tuple[Picture, Mask]:
    """Draw an opaque, bright or dark, round spot.

    Args:
        picture: Grey values between 0 and 1, shape ``(H, W)``.
        generator: Source of all randomness.

    Returns:
        A changed copy of the picture and the mask of its defect, both of shape ``(H, W)``.
    """
    radius = generator.uniform(0.05, 0.11) * min(picture.shape)
    mask = np.zeros(picture.shape, dtype=bool)
    mask[disk(tuple(_centre(picture, generator, margin=0.2)), radius, shape=picture.shape)] = True
    return _blend(picture, mask, value=generator.choice([0.1, 0.9]), opacity=0.9)


def stain(picture: Picture, generator: np.random.Generator) -> tuple[Picture, Mask]:
    """Darken or brighten a large, irregular region through which the texture stays visible.

    Args:
        picture: Grey values between 0 and 1, shape ``(H, W)``.
        generator: Source of all randomness.

    Returns:
        A changed copy of the picture and the mask of its defect, both of shape ``(H, W)``.
    """
    mask = _irregular_region(picture, generator, radius=generator.uniform(0.16, 0.26))
    return _blend(picture, mask, value=generator.choice([0.0, 1.0]), opacity=0.45)


def missing_texture(picture: Picture, generator: np.random.Generator) -> tuple[Picture, Mask]:
    """Smooth a region until its texture is gone.

    Args:
        picture: Grey values between 0 and 1, shape ``(H, W)``.
        generator: Source of all randomness.

    Returns:
        A changed copy of the picture and the mask of its defect, both of shape ``(H, W)``.
    """
    mask = _irregular_region(picture, generator, radius=generator.uniform(0.14, 0.24))
    changed = np.where(mask, gaussian_filter(picture, sigma=0.06 * min(picture.shape)), picture)
    return changed, mask


DEFECTS: dict[str, Defect] = {
    "blob": blob,
    "missing_texture": missing_texture,
    "scratch": scratch,
    "stain": stain,
}
"""All kinds of defects by name."""


def _centre(picture: Picture, generator: np.random.Generator, margin: float) -> npt.NDArray[np.float64]:
    return generator.uniform(margin, 1 - margin, size=2) * picture.shape


def _blend(picture: Picture, mask: Mask, value: float, opacity: float) -> tuple[Picture, Mask]:
    return np.where(mask, (1 - opacity) * picture + opacity * value, picture), mask


def _irregular_region(picture: Picture, generator: np.random.Generator, radius: float) -> Mask:
    """A connected-looking region: a disc whose rim is moved in and out by smooth noise."""
    rows, columns = np.indices(picture.shape)
    row, column = _centre(picture, generator, margin=0.3)
    size = min(picture.shape)
    noise = gaussian_filter(generator.standard_normal(picture.shape), sigma=0.06 * size)
    distance = np.hypot(rows - row, columns - column) / size
    region: Mask = distance + 0.05 * noise / noise.std() < radius
    return region
