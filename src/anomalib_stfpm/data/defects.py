"""Synthetic defects, drawn into a grey image together with their masks."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.ndimage import binary_dilation, gaussian_filter
from skimage.draw import disk, line

GreyImage = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Defect = Callable[[GreyImage, np.random.Generator], tuple[GreyImage, Mask]]


def scratch(image: GreyImage, generator: np.random.Generator) -> tuple[GreyImage, Mask]:
    """Draw a thin, bright or dark, slightly bent line."""
    height, width = image.shape
    angle = generator.uniform(0, np.pi)
    length = generator.uniform(0.35, 0.7) * min(height, width)
    direction = np.array([np.sin(angle), np.cos(angle)]) * length / 2
    centre = _centre(image, generator, margin=0.35)
    bend = np.array([direction[1], -direction[0]]) * generator.uniform(-0.3, 0.3)
    points = [centre - direction, centre + bend, centre + direction]
    mask = np.zeros(image.shape, dtype=bool)
    for start, end in pairwise(points):
        rows, columns = line(*start.round().astype(int), *end.round().astype(int))
        inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
        mask[rows[inside], columns[inside]] = True
    mask = binary_dilation(mask, iterations=int(generator.integers(1, 3)))
    return _blend(image, mask, value=generator.choice([0.05, 0.95]), opacity=0.75)


def blob(image: GreyImage, generator: np.random.Generator) -> tuple[GreyImage, Mask]:
    """Draw an opaque, bright or dark, round spot."""
    radius = generator.uniform(0.05, 0.11) * min(image.shape)
    mask = np.zeros(image.shape, dtype=bool)
    mask[disk(tuple(_centre(image, generator, margin=0.2)), radius, shape=image.shape)] = True
    return _blend(image, mask, value=generator.choice([0.1, 0.9]), opacity=0.9)


def stain(image: GreyImage, generator: np.random.Generator) -> tuple[GreyImage, Mask]:
    """Darken or brighten a large, irregular region through which the texture stays visible."""
    mask = _irregular_region(image, generator, radius=generator.uniform(0.16, 0.26))
    return _blend(image, mask, value=generator.choice([0.0, 1.0]), opacity=0.45)


def missing_texture(image: GreyImage, generator: np.random.Generator) -> tuple[GreyImage, Mask]:
    """Smooth a region until its texture is gone."""
    mask = _irregular_region(image, generator, radius=generator.uniform(0.14, 0.24))
    changed = np.where(mask, gaussian_filter(image, sigma=0.06 * min(image.shape)), image)
    return changed, mask


DEFECTS: dict[str, Defect] = {
    "blob": blob,
    "missing_texture": missing_texture,
    "scratch": scratch,
    "stain": stain,
}
"""All kinds of defects by name."""


def _centre(image: GreyImage, generator: np.random.Generator, margin: float) -> npt.NDArray[np.float64]:
    return generator.uniform(margin, 1 - margin, size=2) * image.shape


def _blend(image: GreyImage, mask: Mask, value: float, opacity: float) -> tuple[GreyImage, Mask]:
    return np.where(mask, (1 - opacity) * image + opacity * value, image), mask


def _irregular_region(image: GreyImage, generator: np.random.Generator, radius: float) -> Mask:
    """A connected-looking region: a disc whose rim is moved in and out by smooth noise."""
    rows, columns = np.indices(image.shape)
    row, column = _centre(image, generator, margin=0.3)
    size = min(image.shape)
    noise = gaussian_filter(generator.standard_normal(image.shape), sigma=0.06 * size)
    distance = np.hypot(rows - row, columns - column) / size
    region: Mask = distance + 0.05 * noise / noise.std() < radius
    return region
