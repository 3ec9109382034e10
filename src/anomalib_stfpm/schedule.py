"""How the learning rate changes while a student is trained."""

import math

CONSTANT, ONE_CYCLE = "constant", "one_cycle"
SCHEDULES = (CONSTANT, ONE_CYCLE)

WARM_UP = 0.3
"""Share of training in which a cycle rises to its peak."""

START = 1 / 25
"""Where a cycle starts, as a share of its peak."""

END = START / 1e4
"""Where a cycle ends, as a share of its peak."""


def one_cycle(progress: float) -> float:
    """Learning rate of a cycle, as a share of its peak: up and down again along half cosines.

    Args:
        progress: Share of training that is done, from 0 to 1.

    Returns:
        The share, from 0 to 1.

    Example:
        >>> [round(one_cycle(progress), 3) for progress in (0, 0.15, 0.3, 0.65, 1)]
        [0.04, 0.52, 1.0, 0.5, 0.0]

    Reference:
        Smith and Topin, Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, 2018,
        https://arxiv.org/abs/1708.07120
    """
    progress = min(progress, 1.0)
    if progress < WARM_UP:
        return _between(START, 1.0, progress / WARM_UP)
    return _between(1.0, END, (progress - WARM_UP) / (1 - WARM_UP))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
