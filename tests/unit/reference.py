"""Loss and anomaly map of STFPM in plain NumPy, written from the paper alone, to compare with."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def squared_distance(teacher: Array, student: Array) -> Array:
    """Squared distance between normalised vectors at every position: (N, C, H, W) to (N, H, W)."""
    batch, _, height, width = teacher.shape
    result = np.empty((batch, height, width))
    for n, i, j in np.ndindex(batch, height, width):
        t, s = teacher[n, :, i, j], student[n, :, i, j]
        difference = t / np.sqrt(np.sum(t**2)) - s / np.sqrt(np.sum(s**2))
        result[n, i, j] = np.sum(difference**2)
    return result


def loss(teacher_pyramid: list[Array], student_pyramid: list[Array], level_weights: list[float]) -> float:
    """Weighted sum over levels of half the squared distance, averaged over batch and positions."""
    total = 0.0
    for teacher, student, weight in zip(teacher_pyramid, student_pyramid, level_weights, strict=True):
        total += weight * float(np.mean(0.5 * squared_distance(teacher, student)))
    return total


def resize(image: Array, height: int, width: int) -> Array:
    """Bilinear resize of (H, W), pixel centres at half coordinates, the border repeated."""
    result = np.empty((height, width))
    for i, j in np.ndindex(height, width):
        row = min(max((i + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
        column = min(max((j + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
        top, left = int(row), int(column)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        down, across = row - top, column - left
        result[i, j] = (1 - down) * ((1 - across) * image[top, left] + across * image[top, right]) + down * (
            (1 - across) * image[bottom, left] + across * image[bottom, right]
        )
    return result


def anomaly_map(
    teacher_pyramid: list[Array],
    student_pyramid: list[Array],
    image_size: tuple[int, int],
    map_size: tuple[int, int],
    level_powers: list[float] | None = None,
) -> Array:
    """Product of the level maps at map_size, resized once to image_size: (N, H, W)."""
    powers = level_powers or [1.0] * len(teacher_pyramid)
    maps = []
    for n in range(len(teacher_pyramid[0])):
        product = np.ones(map_size)
        for teacher, student, power in zip(teacher_pyramid, student_pyramid, powers, strict=True):
            product *= resize(squared_distance(teacher, student)[n] ** power, *map_size)
        maps.append(resize(product, *image_size))
    return np.stack(maps)


Pixels = tuple[npt.NDArray[np.intp], ...]


def regions(masks: npt.NDArray[np.bool_]) -> list[Pixels]:
    """Pixels of each 8-connected region of each mask, as indices into (N, H, W), by flooding."""
    found = []
    left = masks.copy()
    for start in zip(*np.nonzero(masks), strict=True):
        if not left[start]:
            continue
        left[start] = False
        region = [start]
        for n, i, j in region:  # grows while it is gone through
            for k, m in np.ndindex(3, 3):
                neighbour = (n, i + k - 1, j + m - 1)
                inside = 0 <= neighbour[1] < masks.shape[1] and 0 <= neighbour[2] < masks.shape[2]
                if inside and left[neighbour]:
                    left[neighbour] = False
                    region.append(neighbour)
        found.append(tuple(np.array(axis) for axis in zip(*region, strict=True)))
    return found


def pro_curve(maps: Array, masks: npt.NDArray[np.bool_], thresholds: Array) -> tuple[list[float], list[float]]:
    """False-positive rate and mean overlap of the regions above each threshold."""
    background, all_regions = ~masks, regions(masks)
    rates, overlaps = [], []
    for threshold in thresholds:
        above = maps > threshold
        rates.append(float(above[background].mean()))
        overlaps.append(float(np.mean([above[region].mean() for region in all_regions])))
    return rates, overlaps


def published_pro(
    maps: Array, masks: npt.NDArray[np.bool_], number_of_thresholds: int = 4000, limit: float = 0.3
) -> float:
    """Area under the curve up to the limit, both axes rescaled by minimum and maximum."""
    highest, lowest = maps.max(), maps.min()
    thresholds = highest - np.arange(number_of_thresholds) * (highest - lowest) / number_of_thresholds
    curve = zip(*pro_curve(maps, masks, thresholds), strict=True)
    rates, overlaps = (np.array(axis) for axis in zip(*[point for point in curve if point[0] <= limit], strict=True))
    rates = (rates - rates.min()) / (rates.max() - rates.min())
    overlaps = (overlaps - overlaps.min()) / (overlaps.max() - overlaps.min())
    return float(np.trapezoid(overlaps, rates))


def aupro(maps: Array, masks: npt.NDArray[np.bool_], limit: float = 0.3) -> float:
    """Area under the curve up to the limit, every value a threshold, divided by the limit."""
    thresholds = np.concatenate([np.unique(maps)[::-1], [-np.inf]])
    rates, overlaps = pro_curve(maps, masks, thresholds)
    within = sum(rate <= limit for rate in rates)
    end = float(np.interp(limit, rates, overlaps))
    return float(np.trapezoid([*overlaps[:within], end], [*rates[:within], limit])) / limit
