"""One command at a time in an output folder, for two would mix their results."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from .files import naming

LOCK_FILE = ".in_use"

_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder until the block ends. The system ends it with the process, however that ends.

    Args:
        folder: The output folder, which is made if it is missing.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If another command is at work in the folder.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, one_at_a_time(Path(folder)):
        ...     with one_at_a_time(Path(folder)):
        ...         pass
        Traceback (most recent call last):
        ...
        ValueError: Another command is at work in '...': wait until it has ended, or give another output folder.
    """
    path, made = folder / LOCK_FILE, [each for each in (folder, *folder.parents) if not each.exists()]
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        # The file that is locked may have been removed by the command before: its name would be free for a third one.
        if not _locked(file) or not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            msg = f"Another command is at work in '{folder}': wait until it has ended, or give another output folder."
            raise ValueError(msg)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows removes no file that is open
                path.unlink()
                for each in made:
                    each.rmdir()  # if nothing was written to it


def _locked(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD_BY_ANOTHER  # a file system without locks keeps nobody out
    return True
