"""Writing files whole or not at all, and locking an output folder."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from uuid import uuid4

LOCK_FILE = ".in_use"

_LOCKED_BY_ANOTHER = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path, which replaces ``path`` when the block ends without an error.

    Args:
        path: The file to write. Its folder is made if it is missing.
        durable: Whether the file must survive a power cut right after. Flushing it to disk takes time.

    Yields:
        The path to write to. If the block raises, it is removed, and ``path`` stays as it was.

    Raises:
        OSError: If the file cannot be written.
    """
    # Unique among threads, processes and machines, and never too long.
    temporary = path.with_name(f".{uuid4().hex}{path.suffix}")
    try:
        with path_in_errors(path):
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                _flush(temporary)
            temporary.replace(path)
            if durable and os.name == "posix":
                with suppress(OSError):  # some file systems cannot flush a folder
                    _flush(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _flush(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def path_in_errors(path: Path) -> Iterator[None]:
    """Name the path in any ``OSError`` of the block: ``'path' cannot be written (No space left on device).``."""
    try:
        yield
    except OSError as error:
        msg = f"'{path}' cannot be written ({error.strerror or error})."
        raise OSError(msg) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file as UTF-8, see :func:`replacing`."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file, see :func:`replacing`."""
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other commands out of an output folder, where they would mix their results with this one's.

    The operating system releases the lock when the process ends, even if it is killed.

    Args:
        folder: The output folder. It is made if it is missing, and removed at the end if it is still empty.

    Raises:
        OSError: If the folder cannot be written to.
        ValueError: If another command is at work in the folder.
    """
    path, made = folder / LOCK_FILE, [each for each in (folder, *folder.parents) if not each.exists()]
    with path_in_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    with file:
        # The previous command may have removed the file after it was opened here. A third command could then create
        # and lock a new file of that name.
        if not _lock(file) or not path.exists() or not os.path.samestat(path.stat(), os.fstat(file.fileno())):
            msg = f"Another command is at work in '{folder}': wait until it has ended, or give another output folder."
            raise ValueError(msg)
        try:
            yield
        finally:
            with suppress(OSError):  # Windows cannot remove an open file
                path.unlink()
                for each in made:
                    each.rmdir()  # only if it is empty


def _lock(file: IO[bytes]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _LOCKED_BY_ANOTHER  # go on without a lock if the file system has none
    return True
