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


def resize(picture: Array, height: int, width: int) -> Array:
    """Bilinear resize of (H, W), pixel centres at half coordinates, the border repeated."""
    result = np.empty((height, width))
    for i, j in np.ndindex(height, width):
        row = min(max((i + 0.5) * picture.shape[0] / height - 0.5, 0), picture.shape[0] - 1)
        column = min(max((j + 0.5) * picture.shape[1] / width - 0.5, 0), picture.shape[1] - 1)
        top, left = int(row), int(column)
        bottom, right = min(top + 1, picture.shape[0] - 1), min(left + 1, picture.shape[1] - 1)
        down, across = row - top, column - left
        result[i, j] = (1 - down) * ((1 - across) * picture[top, left] + across * picture[top, right]) + down * (
            (1 - across) * picture[bottom, left] + across * picture[bottom, right]
        )
    return result


def anomaly_map(
    teacher_pyramid: list[Array], student_pyramid: list[Array], image_size: tuple[int, int], map_size: tuple[int, int]
) -> Array:
    """Product of the level maps at map_size, resized once to image_size: (N, H, W)."""
    maps = []
    for n in range(len(teacher_pyramid[0])):
        product = np.ones(map_size)
        for teacher, student in zip(teacher_pyramid, student_pyramid, strict=True):
            product *= resize(squared_distance(teacher, student)[n], *map_size)
        maps.append(resize(product, *image_size))
    return np.stack(maps)
