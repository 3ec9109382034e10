"""A progress bar on a terminal, and nothing where there is none."""

import sys
import time
from typing import TextIO

_WIDTH = 30
_SECONDS_BETWEEN = 0.2


class Progress:
    """How far a job has come.

    Args:
        total: Number of its parts.
        stream: Where to show it; standard error unless given.

    Example:
        >>> import io
        >>> Progress(2, io.StringIO()).advance()
    """

    def __init__(self, total: int, stream: TextIO | None = None) -> None:
        self._total = total
        self._done = 0
        self._stream = stream or sys.stderr
        self._start = self._shown = time.monotonic()

    def advance(self) -> None:
        """Count a part that is done."""
        self._done += 1
        now = time.monotonic()
        if self._stream.isatty() and (now - self._shown >= _SECONDS_BETWEEN or self._done == self._total):
            self._shown = now
            self._show(now - self._start)

    def _show(self, seconds: float) -> None:
        rate = self._done / max(seconds, 1e-9)
        left = round((self._total - self._done) / rate)
        bar = "█" * (_WIDTH * self._done // self._total)
        line = f"{bar:<{_WIDTH}} {self._done}/{self._total}  {rate:.1f} pictures/s  {left // 60}:{left % 60:02} left"
        self._stream.write(f"\r{line}   " + ("\n" if self._done == self._total else ""))
        self._stream.flush()
