"""Thresholds from scores of normal images, for a stated rate of false alarms."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SPREAD_OF_ONE = 0.1  # of a single score, which shows no spread

FALSE_ALARM_RATE = 0.01
"""The rate of false alarms unless another is given."""


@dataclass(frozen=True)
class Thresholds:
    """What scores and maps are compared with: above it is anomalous.

    Args:
        image: Threshold of image scores; ``None`` if there is none.
        pixel: Threshold of the pixels of anomaly maps; ``None`` if there is none.

    Example:
        >>> Thresholds(image=0.5, pixel=0.5).image
        0.5
    """

    image: float | None
    pixel: float | None


def threshold_of(scores: npt.ArrayLike, false_alarm_rate: float) -> float:
    r"""Estimate the threshold that a share of all normal images exceeds, from the scores of some of them.

    Let :math:`x_1 \ge x_2 \ge \dots \ge x_n` be the scores and :math:`k = \lceil\sqrt n\rceil`, at most n - 1. The next
    score exceeds :math:`x_{k+1}` with probability :math:`p = (k + 1) / (n + 1)`, whatever the distribution.

    - For rates from p on, the threshold is a quantile of the scores: :math:`x_i` for the rate :math:`i / (n + 1)`, and
      linear between them.
    - For smaller rates r, the excess over :math:`x_{k+1}` is taken to be exponential, as the tail of a maximum over
      pixels roughly is. With the sum S of the k excesses seen, the threshold is
      :math:`x_{k+1} + S ((p / r)^{1/k} - 1)`. This allows for S being an estimate: for exponential scores, the rate of
      false alarms is exactly r on average over sets of images. ``python -m benchmarks.false_alarms`` measures it
      for other distributions, at most 1.2 r, and for a mixture of two kinds of images, 2 r. The plain quantile gives
      33 r for 2 images, 9 r for 10 and 2 r for 100 at r = 0.01.
    - A single score shows no spread: a tenth of it is taken.

    The threshold never falls if the rate falls. If all scores are equal, it is their value.

    Args:
        scores: Scores of normal images, of any shape, at least one.
        false_alarm_rate: Share of normal images above the threshold, between 0 and 1.

    Returns:
        The threshold, a finite number. Above it is anomalous.

    Raises:
        ValueError: If there is no score, a score is not finite, or the rate is not between 0 and 1.

    Example:
        >>> scores = [0.30, 0.34, 0.31, 0.36, 0.33]
        >>> round(threshold_of(scores, 0.5), 3), round(threshold_of(scores, 0.01), 3)
        (0.32, 0.615)
    """
    if not 0 < false_alarm_rate < 1:
        msg = f"The false-alarm rate must be between 0 and 1, both excluded: got {false_alarm_rate}."
        raise ValueError(msg)
    falling = np.sort(np.asarray(scores, np.float64), axis=None)[::-1]
    number = len(falling)
    if not number or not np.isfinite(falling).all():
        msg = "A threshold needs at least one score of a normal image, and scores that are finite numbers."
        raise ValueError(msg)
    if number == 1:
        spread = _SPREAD_OF_ONE * abs(float(falling[0]))
        return float(falling[0]) - spread * float(np.log(false_alarm_rate))
    above = min(int(np.ceil(np.sqrt(number))), number - 1)
    base, share = float(falling[above]), (above + 1) / (number + 1)
    if false_alarm_rate >= share:
        return float(np.interp(false_alarm_rate, np.arange(1, number + 1) / (number + 1), falling))
    excess = float((falling[:above] - base).sum())
    return min(base + excess * float(np.expm1(np.log(share / false_alarm_rate) / above)), float(np.finfo(float).max))


def rescaling(own: float, new: float) -> tuple[float, float]:
    """Return factor and summand that move a map from its model's own threshold to a new one.

    The lowest value of normal images is 0 in a normalised map. It stays there, unless the new threshold is not above
    it.

    Example:
        >>> rescaling(0.5, 2.0), rescaling(0.5, -1.0)
        ((0.25, 0.0), (1.0, 1.5))
    """
    return (own / new, 0.0) if new > 0 < own else (1.0, own - new)
