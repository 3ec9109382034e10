"""A threshold holds its rate of false alarms, from one image on."""

import numpy as np
import pytest

from anomalib_stfpm_deploy.thresholds import rescaling, threshold_of

RATE = 0.01


def false_alarms(kind: str, number: int) -> float:
    """Share of new scores above thresholds from some scores each, on average over many sets."""
    generator = np.random.default_rng(0)
    draw = {
        "normal": lambda size: generator.normal(1, 0.15, size),
        "log-normal": lambda size: generator.lognormal(0, 0.5, size),
        "Gumbel": lambda size: generator.gumbel(1, 0.15, size),
        "exponential": lambda size: generator.exponential(1, size),
    }[kind]
    thresholds = [threshold_of(scores, RATE) for scores in draw((1000, number))]
    return float(np.mean(np.sort(draw(20_000))[np.newaxis] > np.array(thresholds)[:, np.newaxis]))


@pytest.mark.parametrize("kind", ["normal", "log-normal", "Gumbel", "exponential"])
@pytest.mark.parametrize("number", [2, 5, 20, 100, 1000])
def test_few_images_raise_no_more_false_alarms_than_many(kind: str, number: int) -> None:
    assert false_alarms(kind, number) < 1.3 * RATE


@pytest.mark.parametrize("kind", ["normal", "log-normal", "Gumbel", "exponential"])
def test_many_images_give_the_rate(kind: str) -> None:
    assert false_alarms(kind, 1000) > 0.8 * RATE


@pytest.mark.parametrize("number", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("scale", [-3.0, 0.0, 1e-30, 1e30])
def test_it_is_finite_and_never_falls_with_the_rate(number: int, scale: float) -> None:
    scores = scale * np.random.default_rng(number).normal(1, 0.2, number)
    rates = [1e-300, 1e-9, *np.linspace(0.001, 0.999, 400)]
    thresholds = np.array([threshold_of(scores, rate) for rate in rates])
    assert np.isfinite(thresholds).all()
    assert (np.diff(thresholds) <= 0).all()


@pytest.mark.parametrize("rate", [1e-9, 0.01, 0.5])
def test_the_threshold_of_equal_scores_is_their_value(rate: float) -> None:
    assert threshold_of([0.7] * 5, rate) == 0.7


def test_a_frequent_rate_is_a_quantile() -> None:
    assert threshold_of(np.arange(1, 100), 0.25) == pytest.approx(75)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, np.nan])
def test_another_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="must be between 0 and 1, both excluded: got"):
        threshold_of([1.0], rate)


@pytest.mark.parametrize("scores", [[], [np.nan], [1.0, np.inf]])
def test_scores_that_are_no_numbers_are_refused(scores: list[float]) -> None:
    with pytest.raises(ValueError, match="at least one score"):
        threshold_of(scores, RATE)


@pytest.mark.parametrize("new", [0.01, 0.5, 40.0, 0.0, -2.0])
def test_a_moved_threshold_is_where_the_old_one_was(new: float) -> None:
    factor, summand = rescaling(0.5, new)
    assert new * factor + summand == pytest.approx(0.5)
    assert factor > 0
