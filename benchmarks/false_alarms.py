"""Rate of false alarms of thresholds from few normal images, against the plain quantile, on simulated scores.

``python -m benchmarks.false_alarms`` prints a table: how many times the stated rate is reached on average over sets of
images, with ``threshold_of`` and with ``numpy.quantile``.
"""

import argparse
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from anomalib_stfpm_deploy.thresholds import FALSE_ALARM_RATE, threshold_of

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]


def _two_kinds(generator: np.random.Generator, size: tuple[int, ...]) -> npt.NDArray[np.float64]:
    is_rare = generator.random(size) < 0.1
    return np.where(is_rare, generator.normal(1.5, 0.2, size), generator.normal(1, 0.1, size))


DISTRIBUTIONS: dict[str, Draw] = {
    "normal": lambda generator, size: generator.normal(1, 0.15, size),
    "log-normal": lambda generator, size: generator.lognormal(0, 0.5, size),
    "Gumbel": lambda generator, size: generator.gumbel(1, 0.15, size),
    "gamma": lambda generator, size: generator.gamma(4, 1, size),
    "Student's t": lambda generator, size: generator.standard_t(4, size),
    "two kinds": _two_kinds,
}
"""Distributions of scores. The last one has a tenth of images of another kind."""

NUMBERS = (2, 5, 10, 20, 50, 100, 300, 1000)


def times_the_rate(draw: Draw, number: int, rate: float, sets: int) -> tuple[float, float]:
    """Return the rates of new scores above the thresholds, in units of the stated rate: ours and the quantile's."""
    generator = np.random.default_rng(0)
    scores, new = draw(generator, (sets, number)), np.sort(draw(generator, (200_000,)))
    ours = np.array([threshold_of(one, rate) for one in scores])
    return _above(ours, new) / rate, _above(np.quantile(scores, 1 - rate, axis=1), new) / rate


def _above(thresholds: npt.NDArray[np.float64], rising: npt.NDArray[np.float64]) -> float:
    return float(1 - np.searchsorted(rising, thresholds, side="right").mean() / len(rising))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=FALSE_ALARM_RATE)
    parser.add_argument("--sets", type=int, default=4000, help="sets of images of each size")
    given = parser.parse_args()
    print(f"| images | {' | '.join(DISTRIBUTIONS)} |\n|{' --- |' * (1 + len(DISTRIBUTIONS))}")
    for number in NUMBERS:
        cells = [times_the_rate(draw, number, given.rate, given.sets) for draw in DISTRIBUTIONS.values()]
        print(f"| {number} | {' | '.join(f'{ours:.1f} ({quantile:.1f})' for ours, quantile in cells)} |")


if __name__ == "__main__":
    main()
