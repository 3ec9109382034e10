"""JSON that every reader reads: without the NaN and Infinity that only some do."""

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


def _finite(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
