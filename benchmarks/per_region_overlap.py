"""Compare the time of PublishedPRO with that of the direct computation in its tests.

The direct computation thresholds all maps at each of the 4,000 thresholds. Run from the root of the repository:

    python -m benchmarks.per_region_overlap --maps 100 --size 256
"""

import argparse
import time

import numpy as np
import torch
from anomalib.data import ImageBatch
from scipy.ndimage import gaussian_filter

from anomalib_stfpm import PublishedPRO
from tests.unit import reference


def images(count: int, size: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Make masks with one to three round defects each, and smooth maps that respond to half of the defects."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((size, size))
    maps, masks = np.empty((count, size, size), np.float32), np.zeros((count, size, size), bool)
    for index in range(count):
        seen = np.zeros((size, size))
        for _ in range(generator.integers(1, 4)):
            row, column, radius = generator.uniform([0, 0, size / 40], [size, size, size / 10])
            defect = (rows - row) ** 2 + (columns - column) ** 2 < radius**2
            masks[index] |= defect
            seen += defect * generator.choice([0, 1])
        maps[index] = gaussian_filter(generator.gamma(1, 1, (size, size)) + 4 * seen, size / 64)
    return torch.from_numpy(maps), torch.from_numpy(masks)


def main() -> None:
    """Print value and time of both, and the ratio of the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", type=int, default=100)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=5, help="runs of PublishedPRO; the median is reported")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    maps, masks = images(arguments.maps, arguments.size, arguments.seed)
    batch = ImageBatch(image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=maps, gt_mask=masks)

    seconds = []
    for _ in range(arguments.repeat):
        metric = PublishedPRO()
        start = time.perf_counter()
        metric.update(batch)
        value = float(metric.compute())
        seconds.append(time.perf_counter() - start)
    start = time.perf_counter()
    expected = reference.published_pro(maps.double().numpy(), masks.numpy())
    direct = time.perf_counter() - start

    fast = float(np.median(seconds))
    print(f"PublishedPRO {value:.8f} in {fast:.3f} s, direct {expected:.8f} in {direct:.1f} s")
    print(f"difference {abs(value - expected):.1e}, ratio of the times {direct / fast:.0f}")


if __name__ == "__main__":
    main()
