"""Writing files so that none is ever half there."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
    # No other thread and no other process of this machine has the name.
    temporary = path.with_name(f".{path.stem}-{os.getpid()}-{threading.get_native_id()}{path.suffix}")
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("r+b") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise cannot_be_written(path, error) from error
        raise


def cannot_be_written(path: Path, reason: OSError) -> OSError:
    """Say in one sentence that a file cannot be written.

    Args:
        path: The file.
        reason: What the system says.

    Returns:
        The error to raise.

    Example:
        >>> cannot_be_written(Path("results.txt"), OSError(28, "No space left on device"))
        OSError("'results.txt' cannot be written (No space left on device).")
    """
    return OSError(f"'{path}' cannot be written ({reason.strerror or reason}).")


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
