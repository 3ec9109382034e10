"""Writing files so that none is ever half there."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NUMBERS = itertools.count()


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a temporary path beside a file, which replaces the file when the block ends without an error.

    Args:
        path: The file to write. Its folder is made if it is missing.
        durable: Whether the file must outlast a power cut from then on. That takes the time of a disk.

    Yields:
        The path to write to. It is removed if the block raises, and ``path`` is left as it was.

    Raises:
        OSError: If the folder cannot be written to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "results.txt") as temporary:
        ...         _ = temporary.write_text("all of it")
        ...     (Path(folder) / "results.txt").read_text()
        'all of it'
    """
    # No other thread and no other process of this machine has the name, which is never too long.
    temporary = path.with_name(f".{os.getpid()}-{next(_NUMBERS)}{path.suffix}")
    try:
        with naming(path):
            if not path.parent.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            if durable:
                _to_disk(temporary)
            temporary.replace(path)
            if durable and os.name == "posix":
                with suppress(OSError):  # of a file system that cannot
                    _to_disk(path.parent)  # the name as well as what is in the file
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def _to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say what cannot be written, where the system does not.

    Args:
        path: What is written in the block.

    Yields:
        Nothing.

    Raises:
        OSError: If the block raises one.

    Example:
        >>> with naming(Path("folder")):
        ...     Path("nowhere", "folder").mkdir()
        Traceback (most recent call last):
        ...
        OSError: 'folder' cannot be written (No such file or directory).
    """
    try:
        yield
    except OSError as error:
        msg = f"'{path}' cannot be written ({error.strerror or error})."
        raise OSError(msg) from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all.

    Args:
        path: The file to write.
        text: What to write, as UTF-8.

    Raises:
        OSError: If the file cannot be written.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     write_text(Path(folder) / "new" / "results.txt", "all of it")
        ...     (Path(folder) / "new" / "results.txt").read_text()
        'all of it'
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file, whole or not at all.

    Args:
        path: The file to write.
        data: What to write.
        durable: See :func:`replacing`.

    Raises:
        OSError: If the file cannot be written.
    """
    with replacing(path, durable=durable) as temporary:
        temporary.write_bytes(data)
