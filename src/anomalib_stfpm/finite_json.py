"""JSON that every reader reads, without NaN and Infinity, and values of the kinds that it brings back."""

import json
import math
from typing import Any


def dumps(value: Any) -> str:  # noqa: ANN401
    r"""Write a value as JSON, with ``null`` for numbers that are not finite.

    Args:
        value: Mappings, sequences, texts and numbers.

    Returns:
        The text, which ends with a new line.

    Example:
        >>> dumps({"score": float("nan")})
        '{\n "score": null\n}\n'
    """
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:  # noqa: ANN401
    """Turn a value into what JSON would bring back.

    Args:
        value: Mappings, sequences, texts, numbers and anything else, which becomes its text.

    Returns:
        Dictionaries, lists, texts and numbers.

    Example:
        >>> from pathlib import PurePosixPath
        >>> plain({"root": PurePosixPath("pictures"), "size": (64, 96)})
        {'root': 'pictures', 'size': [64, 96]}
    """
    return json.loads(json.dumps(value, default=str))


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
