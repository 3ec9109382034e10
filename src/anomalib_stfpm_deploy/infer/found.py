"""Which images are to be scored, and what they are called in the results."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from anomalib_stfpm_deploy.image import SUFFIXES, is_leftover


def find_images(inputs: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Find the images in files and folders.

    Args:
        inputs: Images, and folders that are searched with all folders in them.

    Yields:
        A unique name and the path of each image. The name is the path below the input folder. If two are the same, the
        second gets a number.

    Raises:
        FileNotFoundError: If an input does not exist, or no image is found.
    """
    names: set[str] = set()
    for given in inputs:
        if not given.exists():
            msg = f"'{given}' does not exist."
            raise FileNotFoundError(msg)
        found = [given] if given.is_file() else sorted(_images_below(given))
        for path in found:
            folder = given if given.is_dir() else given.parent
            number, unique = 1, name_of(path, folder)
            while unique in names:
                number += 1
                unique = name_of(path.with_name(f"{path.stem}_{number}{path.suffix}"), folder)
            names.add(unique)
            yield unique, path
    if not names:
        msg = f"There are no images in {', '.join(map(str, inputs))}: they end in {', '.join(sorted(SUFFIXES))}."
        raise FileNotFoundError(msg)


def name_of(path: Path, folder: Path) -> str:
    """Return what an image in a folder is called: its path below it, as valid UTF-8."""
    return as_name(str(path.relative_to(folder)))


def as_name(below: str) -> str:
    """Turn a path below a folder into a name of valid UTF-8. On Linux, file names may be any bytes."""
    return below.replace(os.sep, "/").encode("utf-8", "backslashreplace").decode("utf-8")


def _images_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        msg = f"The folder '{error.filename}' cannot be read ({error.strerror}): its images would be left out."
        raise OSError(msg) from error

    # os.walk does not follow links to folders, which may form a cycle.
    for inside, _, names in os.walk(folder, onerror=refuse):
        found = (Path(inside) / name for name in names if Path(name).suffix.lower() in SUFFIXES)
        yield from (path for path in found if not is_leftover(path.relative_to(folder)))


def version_of(path: Path | os.DirEntry[str]) -> str:
    """Return size and modification time of a file, which change with its content."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"
