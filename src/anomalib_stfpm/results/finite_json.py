"""JSON without NaN and Infinity, which the standard does not allow."""

import json
import math
from typing import Any


def dumps(value: Any) -> str:  # noqa: ANN401
    r"""Write a value as JSON, with ``null`` for numbers that are not finite.

    Example:
        >>> dumps({"score": float("nan")})
        '{\n "score": null\n}\n'
    """
    return json.dumps(_finite(value), indent=1, allow_nan=False) + "\n"


def plain(value: Any) -> Any:  # noqa: ANN401
    """Convert a value to what JSON can hold. Anything else becomes its text.

    Example:
        >>> from pathlib import PurePosixPath
        >>> plain({"root": PurePosixPath("images"), "size": (64, 96)})
        {'root': 'images', 'size': [64, 96]}
    """
    return json.loads(json.dumps(value, default=str))


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
