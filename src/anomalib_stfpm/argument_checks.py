"""Checks of arguments that several classes share, and the errors that jsonargparse wraps."""

import math
import re
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from types import UnionType


def number(name: str, value: object, meaning: str, fits: Callable[[float], bool]) -> None:
    """Check a number.

    Raises:
        ValueError: If it is no number, or out of range.

    Example:
        >>> number("learning_rate", "fast", "positive", lambda rate: rate > 0)
        Traceback (most recent call last):
        ...
        ValueError: learning_rate must be positive: got 'fast'.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not fits(float(value)):
        msg = f"{name} must be {meaning}: got {value!r}."
        raise ValueError(msg)


def count(name: str, value: object, minimum: int) -> None:
    """Check a whole number.

    Raises:
        ValueError: If it is no whole number, or less.

    Example:
        >>> count("max_epochs", 2.5, minimum=1)
        Traceback (most recent call last):
        ...
        ValueError: max_epochs must be a whole number: got 2.5.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        msg = f"{name} must be a whole number: got {value!r}."
        raise ValueError(msg)
    if int(value) < minimum:
        msg = f"{name} must be at least {minimum}: got {value}."
        raise ValueError(msg)


def seeds(given: Sequence[int]) -> None:
    """Check seeds.

    Raises:
        ValueError: If there is none, one is out of range, or one is given twice.

    Example:
        >>> seeds([0, 0])
        Traceback (most recent call last):
        ...
        ValueError: seeds must be at least one number from 0 to 4294967295, each once: got [0, 0].
    """
    if not given or min(given) < 0 or max(given) >= 2**32 or len(set(given)) < len(given):
        msg = f"seeds must be at least one number from 0 to 4294967295, each once: got {list(given)}."
        raise ValueError(msg)


def weights(name: str, values: Sequence[float]) -> list[float]:
    """Check one number a level.

    Raises:
        ValueError: If one is no number, negative or not finite, or all are zero.

    Example:
        >>> weights("level_weights", (1, 2))
        [1.0, 2.0]
    """
    are_numbers = isinstance(values, Sequence) and all(isinstance(value, Real) for value in values)
    checked = [float(value) for value in values] if are_numbers else []
    if not any(checked) or not all(0 <= value < math.inf for value in checked):
        msg = f"{name} must be finite numbers, none negative and not all zero: got {checked or values!r}."
        raise ValueError(msg)
    return checked


def size(name: str, value: object, minimum: int = 1) -> tuple[int, int]:
    """Check a size.

    Raises:
        ValueError: If it is no pair of whole numbers, or one of them is less.

    Example:
        >>> size("input_size", 256)
        Traceback (most recent call last):
        ...
        ValueError: input_size must be a height and a width of at least 1 pixels: got 256.
    """
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else []
    if len(sides) != 2 or not all(isinstance(side, Integral) and int(side) >= minimum for side in sides):
        msg = f"{name} must be a height and a width of at least {minimum} pixels: got {sides or value!r}."
        raise ValueError(msg)
    height, width = sides
    return int(height), int(width)


def kind(name: str, value: object, kinds: type | UnionType, meaning: str) -> None:
    """Check a type.

    Raises:
        ValueError: If it is something else.

    Example:
        >>> kind("exact_cache", "yes", bool, "True or False")
        Traceback (most recent call last):
        ...
        ValueError: exact_cache must be True or False: got 'yes'.
    """
    if not isinstance(value, kinds):
        msg = f"{name} must be {meaning}: got {value!r}."
        raise ValueError(msg)


def reason_in(message: str) -> str | None:
    r"""Find the error of a class in the message that jsonargparse makes of it; ``None`` in any other message.

    Example:
        >>> reason_in("Errors:\n  - Expected None\n  - seed must be positive.\nGiven value type: int")
        'seed must be positive.'
    """
    listed = re.search(r"(?:^|\n)Errors:(\n.*?)\nGiven value type: ", message, re.DOTALL)
    return listed[1].rpartition("\n  - ")[2].strip() if listed else None
