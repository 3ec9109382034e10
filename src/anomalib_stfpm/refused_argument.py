"""What is wrong with an argument, out of all that jsonargparse says of the types it has tried."""

import re


def sentence_of(message: str) -> str | None:
    r"""Find what a class says of the arguments that it refuses.

    Args:
        message: jsonargparse's message.

    Returns:
        The sentence; ``None`` where the message is of another kind.

    Example:
        >>> sentence_of("Errors:\n  - Expected None\n  - seed must be positive.\nGiven value type: int")
        'seed must be positive.'
    """
    listed = re.search(r"(?:^|\n)Errors:(\n.*?)\nGiven value type: ", message, re.DOTALL)
    return listed[1].rpartition("\n  - ")[2].strip() if listed else None
