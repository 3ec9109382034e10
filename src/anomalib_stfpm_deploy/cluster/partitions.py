"""Scores of images as Parquet files, to which a later command adds those that are missing."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs, parquet

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cluster.storage import Found, Place
from anomalib_stfpm_deploy.results import Result

SCORES = "scores"
MADE_WITH_FILE = "made_with.json"

SCHEMA = pa.schema(
    [
        ("image", pa.string()),
        ("version", pa.string()),
        ("score", pa.float64()),
        ("is_anomalous", pa.bool_()),
        ("unreadable", pa.string()),
    ]
)
"""Columns of the Parquet files, as of :class:`Result`."""


@dataclass(frozen=True)
class Partitions:
    """A folder of Parquet files, each with the scores of some images.

    Args:
        place: The output folder.
        made_with: Model and options, as JSON.
    """

    place: Place
    made_with: str

    @classmethod
    def in_folder(cls, place: Place, made_with: dict[str, Any]) -> "Partitions":
        """Make the folder, or go on in one with scores of the same model and options.

        Raises:
            ValueError: If the folder holds scores of others, or something else.
            OSError: If the folder cannot be written to.
        """
        made = cls(place, json.dumps(made_with, indent=1))
        note = place.below(MADE_WITH_FILE)
        with files.path_in_errors(Path(place.given)):
            place.file_system.create_dir(made.scores.path)
        if note.exists():
            _require_same(place, note.read(), made_with)
        else:
            note.write(made.made_with.encode())
        if place.is_local:
            for left_by_a_killed_worker in Path(made.scores.path).glob(".*.parquet"):
                left_by_a_killed_worker.unlink()
        return made

    @property
    def scores(self) -> Place:
        """The folder of the Parquet files."""
        return self.place.below(SCORES)

    def are_seen(self) -> bool:
        """Return whether this machine sees the folder of the command; ``OSError`` if it cannot be read."""
        return self.place.below(MADE_WITH_FILE).read() == self.made_with.encode()

    def write(self, results: Sequence[Result]) -> None:
        """Write a file. The same images always make the same one, so that a second attempt replaces the first."""
        columns = {name: [getattr(one, name) for one in results] for name in SCHEMA.names[1:]}
        columns["image"] = [one.picture for one in results]
        name = hashlib.sha256("\n".join(columns["image"] + columns["version"]).encode()).hexdigest()[:32]
        _write(self.scores.below(f"{name}.parquet"), pa.table(columns, SCHEMA))

    def read(self) -> Iterator[tuple[Place, pa.Table]]:
        """Read the files one after the other.

        Raises:
            ValueError: If one is damaged, or not of scores.
        """
        inside = self.scores.file_system.get_file_info(fs.FileSelector(self.scores.path))
        for place in (self.scores.below(info.base_name) for info in inside if info.extension == "parquet"):
            try:
                table = parquet.read_table(pa.BufferReader(place.read()))
            except (OSError, ValueError):
                table = pa.table({})
            if not table.schema.equals(SCHEMA):
                msg = f"'{place.given}' is damaged or not of scores: remove it, or give another output folder."
                raise ValueError(msg)
            yield place, table

    def remove(self, images: list[str]) -> None:
        """Remove what is known of images."""
        for place, table in self.read():
            kept = table.filter(pc.invert(pc.is_in(table["image"], pa.array(images, pa.string()))))
            if not len(kept):
                place.file_system.delete_file(place.path)
            elif len(kept) < len(table):
                _write(place, kept)


class KnownImages:
    """Which images have a score: 16 bytes of memory for each.

    Args:
        partitions: Where the scores are.
    """

    def __init__(self, partitions: Partitions) -> None:
        self._partitions = partitions
        names, versions = [np.zeros(1, np.uint64)], [np.zeros(1, np.uint64)]  # never empty
        for _, table in partitions.read():
            names.append(_keys(table["image"].to_pylist()))
            # What was unreadable is tried again.
            is_unreadable = np.array([reason is not None for reason in table["unreadable"].to_pylist()], bool)
            versions.append(np.where(is_unreadable, np.uint64(0), _keys(table["version"].to_pylist())))
        order = np.argsort(np.concatenate(names))
        self._names, self._versions = np.concatenate(names)[order], np.concatenate(versions)[order]

    def left_of(self, found: Sequence[Found]) -> list[Found]:
        """Return the images that have no score, and remove what is known of earlier versions of them."""
        names, versions = _keys([name for name, _, _ in found]), _keys([version for _, version, _ in found])
        where = np.searchsorted(self._names[:-1], names)
        is_there = self._names[where] == names
        is_known = is_there & (self._versions[where] == versions)
        if outdated := [one[0] for one, old in zip(found, is_there & ~is_known, strict=True) if old]:
            self._partitions.remove(outdated)
        return [one for one, known in zip(found, is_known, strict=True) if not known]


def _require_same(place: Place, note: bytes, made_with: dict[str, Any]) -> None:
    try:
        before = dict(json.loads(note))
    except (ValueError, TypeError) as error:
        msg = f"'{place.given}' holds a '{MADE_WITH_FILE}' that is damaged: give another output folder."
        raise ValueError(msg) from error
    different = [name for name, value in made_with.items() if before.get(name) != value]
    if different:
        msg = (
            f"'{place.given}' holds results that were made with another {' and '.join(different)}: "
            "give another output folder."
        )
        raise ValueError(msg)


def _write(place: Place, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    parquet.write_table(table, buffer)
    place.write(buffer.getvalue().to_pybytes())


def _keys(texts: Sequence[str]) -> npt.NDArray[np.uint64]:
    digests = (hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts)
    return np.frombuffer(b"".join(digests), np.uint64)
