"""Folders and images on any file system that PyArrow knows: local, S3, Google Cloud Storage, Azure, HDFS."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import fs

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.image import SUFFIXES, is_leftover

_LISTED = tuple(SUFFIXES)

Found = tuple[str, str, int]
"""The path or URI of an image, its size and modification time, and the number of the input that it is of."""


@dataclass(frozen=True)
class Place:
    """A file or folder.

    Args:
        given: What the user calls it.
        scheme: ``"s3://"`` and so on; empty for a local path.
        path: Its path in the file system.
        file_system: The file system.
    """

    given: str
    scheme: str
    path: str
    file_system: fs.FileSystem

    @classmethod
    def of(cls, given: str) -> "Place":
        """Find the place of a path or URI.

        Raises:
            ValueError: If the URI is of no file system that PyArrow knows.
        """
        scheme, separator, _ = given.partition("://")
        if not separator:
            return cls(given, "", Path(given).absolute().as_posix(), fs.LocalFileSystem())
        try:
            file_system, path = fs.FileSystem.from_uri(given)
        except (OSError, ValueError) as error:
            msg = f"'{given}' cannot be reached ({_reason(error)}): give a path, or a URI such as s3://bucket/folder."
            raise ValueError(msg) from error
        is_local = isinstance(file_system, fs.LocalFileSystem)
        return cls(given, "" if is_local else f"{scheme}://", path.rstrip("/"), file_system)

    @property
    def is_local(self) -> bool:
        """Whether it is a path that this machine has."""
        return isinstance(self.file_system, fs.LocalFileSystem)

    def below(self, name: str) -> "Place":
        """Return the place of a file or folder in it."""
        return Place(f"{self.given}/{name}", self.scheme, f"{self.path}/{name}", self.file_system)

    def exists(self) -> bool:
        """Return whether there is something."""
        return bool(self.file_system.get_file_info(self.path).type != fs.FileType.NotFound)

    def read(self) -> bytes:
        """Read a file."""
        with self.file_system.open_input_stream(self.path, compression=None) as stream:
            return bytes(stream.read())

    def write(self, data: bytes) -> None:
        """Write a file, whole or not at all."""
        if self.is_local:
            files.write_bytes(Path(self.path), data)
            return
        with self.file_system.open_output_stream(self.path, compression=None) as stream:
            stream.write(data)  # object stores show a file when it is closed


def find_images(inputs: Sequence[Place]) -> Iterator[Found]:
    """Find the images in files and folders, a folder at a time.

    Args:
        inputs: Images, and folders that are searched with all folders in them.

    Yields:
        The images, in the order of their names within a folder.

    Raises:
        FileNotFoundError: If an input does not exist, or no image is found.
        OSError: If a folder cannot be read.
        ValueError: If one input lies in another.
    """
    for one in inputs:
        folder = f"{one.scheme}{one.path}/"
        inside = [other for other in inputs if other is not one and f"{other.scheme}{other.path}/".startswith(folder)]
        if inside:
            msg = f"'{inside[0].given}' lies in '{one.given}': give one of them."
            raise ValueError(msg)
        if not one.exists():
            msg = f"'{one.given}' does not exist."
            raise FileNotFoundError(msg)
    is_empty = True
    for number, one in enumerate(inputs):
        for info in _images_below(one):
            is_empty = False
            yield f"{one.scheme}{info.path}", f"{info.size} {info.mtime_ns}", number
    if is_empty:
        names = ", ".join(one.given for one in inputs)
        msg = f"There are no images in {names}: they end in {', '.join(sorted(SUFFIXES))}."
        raise FileNotFoundError(msg)


def _images_below(place: Place) -> Iterator[fs.FileInfo]:
    info = place.file_system.get_file_info(place.path)
    if info.type == fs.FileType.File:
        yield info
        return
    folders = [place.path]
    while folders:
        folder = folders.pop()
        try:
            inside = place.file_system.get_file_info(fs.FileSelector(folder))
            inside = sorted(inside, key=lambda info: info.path)
        except OSError as error:
            msg = f"The folder '{folder}' cannot be read ({_reason(error)}): its images would be left out."
            raise OSError(msg) from error
        except UnicodeDecodeError as error:
            msg = f"A name in the folder '{folder}' is not valid UTF-8: rename it, or use infer without --cluster."
            raise ValueError(msg) from error
        for one in inside:
            if is_leftover(PurePosixPath(one.base_name)):
                continue
            if one.type == fs.FileType.Directory:
                # Links to folders may form a cycle.
                if not (place.is_local and os.path.islink(one.path)):
                    folders.append(one.path)
            elif one.type == fs.FileType.File and one.base_name.lower().endswith(_LISTED):
                yield one


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".")
