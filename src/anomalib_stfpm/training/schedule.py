"""Learning rate schedules."""

import math

CONSTANT, ONE_CYCLE = "constant", "one_cycle"
SCHEDULES = (CONSTANT, ONE_CYCLE)

WARM_UP = 0.3
"""Share of training in which the learning rate rises to its peak."""

START = 1 / 25
"""Initial learning rate, as a share of its peak."""

END = START / 1e4
"""Final learning rate, as a share of its peak."""


def one_cycle(progress: float) -> float:
    """Return the learning rate, as a share of its peak, after a share of training: up and down along half cosines.

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
