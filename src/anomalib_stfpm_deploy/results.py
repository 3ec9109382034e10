"""Results of ``infer``, kept so that an interrupted run resumes, even after a power cut."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from . import files
from .infer.regions import Region

JSON_FILE, CSV_FILE, JOURNAL_FILE = "results.json", "results.csv", "results.partial.jsonl"
COLUMNS = ("picture", "score", "is_anomalous", "regions", "heat_map", "overlay", "unreadable")
"""Columns of the CSV file; of regions it has the number."""


@dataclass(frozen=True)
class Result:
    """The result for an image.

    Args:
        picture: Name of the image: its path below the input folder.
        version: Size and modification time of the file. If they change, the image is scored again.
        score: Image score; ``None`` for an unreadable image.
        is_anomalous: Whether the score is above the threshold; ``None`` if the model has no threshold.
        heat_map: Path of the heat map in the output folder.
        overlay: Path of the image with the heat map over it.
        thumbnail: Path of the small picture for the gallery.
        unreadable: Why the image cannot be read.
        width: Width of the image in pixels, turned as its orientation tag says.
        height: Height of it.
        regions: Connected regions above the pixel threshold.
    """

    picture: str
    version: str
    score: float | None = None
    is_anomalous: bool | None = None
    heat_map: str | None = None
    overlay: str | None = None
    thumbnail: str | None = None
    unreadable: str | None = None
    width: int | None = None
    height: int | None = None
    regions: tuple[Region, ...] = ()

    @property
    def pictures(self) -> list[str]:
        """Paths of what was drawn for the image, in the output folder."""
        return [name for name in (self.heat_map, self.overlay, self.thumbnail) if name is not None]


class Results:
    """Results in an output folder: a journal with a line for each image, and JSON and CSV at the end.

    Args:
        folder: The output folder.
        made_with: Model and options. A folder holds results of the same ones only.

    Raises:
        ValueError: If the folder holds results of another model or other options, or files that are not results.
        OSError: If the folder cannot be written to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     results = Results(Path(folder), {"model": "model.xml"})
        ...     results.add(Result("1.png", "10 bytes", score=0.25))
        ...     results.is_known("1.png", "10 bytes"), [result.score for result in results.finish(["1.png"])]
        (True, [0.25])
    """

    def __init__(self, folder: Path, made_with: dict[str, Any]) -> None:
        self._folder = folder
        self._made_with = made_with
        self._results: dict[str, Result] = {}
        with files.path_in_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._read_json()
        complete_bytes = self._read_journal()
        journal = folder / JOURNAL_FILE
        with files.path_in_errors(journal):
            self._journal: TextIO = journal.open("r+" if complete_bytes else "w", encoding="utf-8")
        if complete_bytes:
            self._journal.truncate(complete_bytes)  # a power cut may have left half a line
            self._journal.seek(0, io.SEEK_END)
        else:
            self._write_line(made_with)

    def is_known(self, image: str, version: str) -> bool:
        """Return whether the image has a score and all of its files."""
        result = self._results.get(image)
        if result is None or result.version != version or result.unreadable is not None:
            return False
        written = [self._folder / name for name in result.pictures]
        return all(path.is_file() and path.stat().st_size > 0 for path in written)

    def add(self, result: Result) -> None:
        """Write a result to the journal."""
        self._results[result.picture] = result
        self._write_line(vars(result))

    def finish(self, images: list[str]) -> list[Result]:
        """Write the results of the images as JSON and CSV in this order, remove the journal, and return them."""
        self._journal.close()
        results = [self._results[image] for image in images]
        lines = ",\n".join(_as_json(vars(result)) for result in results)
        text = f'{{"made_with": {_as_json(self._made_with)},\n"results": [\n{lines}\n]}}\n'
        files.write_text(self._folder / JSON_FILE, text)
        files.write_text(self._folder / CSV_FILE, _as_csv(results))
        (self._folder / JOURNAL_FILE).unlink()
        return results

    def _write_line(self, record: dict[str, Any]) -> None:
        with files.path_in_errors(self._folder / JOURNAL_FILE):
            self._journal.write(_as_json(record) + "\n")
            self._journal.flush()

    def _read_json(self) -> None:
        path = self._folder / JSON_FILE
        if path.is_file():
            with _reading(path):
                record = json.loads(path.read_text(encoding="utf-8"))
                made_with, results = dict(record["made_with"]), [_checked(result) for result in record["results"]]
            self._resume(made_with, results)

    def _read_journal(self) -> int:
        """Resume an interrupted run; return the number of bytes in complete lines of its journal."""
        path = self._folder / JOURNAL_FILE
        text = path.read_bytes() if path.is_file() else b""
        complete = text.rpartition(b"\n")[0] + b"\n"
        if not complete.strip():
            return 0
        with _reading(path):
            first, *others = map(json.loads, complete.splitlines())
            made_with, results = dict(first), [_checked(result) for result in others]
        self._resume(made_with, results)
        return len(complete)

    def _resume(self, made_with: dict[str, Any], results: list[Result]) -> None:
        if made_with != self._made_with:
            different = [name for name, value in self._made_with.items() if made_with.get(name) != value]
            msg = (
                f"'{self._folder}' holds results that were made with another {' and '.join(different)}: "
                "give another output folder."
            )
            raise ValueError(msg)
        self._results |= {result.picture: result for result in results}


def _as_json(record: dict[str, Any]) -> str:
    """Write a record as a line of JSON; of dataclasses in it, the fields."""
    return json.dumps(record, ensure_ascii=False, default=vars)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{path}' is not a list of results: give another output folder."
        raise ValueError(msg) from error


def _checked(record: dict[str, Any]) -> Result:
    regions = tuple(Region(**one) for one in record.get("regions", ()))
    result = Result(**{**record, "regions": regions})
    for name in result.pictures:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            msg = f"'{name}' is not in the output folder."
            raise ValueError(msg)
    return result


def _as_csv(results: list[Result]) -> str:
    text = io.StringIO()
    # Lines must end with \r\n: only then does csv quote carriage returns in names.
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore")
    writer.writeheader()
    for result in results:
        row = {**vars(result), "regions": None if result.width is None else len(result.regions)}
        writer.writerow({name: harmless(value) for name, value in row.items()})
    return text.getvalue()


def harmless(value: object) -> object:
    """Put an apostrophe before text that a spreadsheet would run as a formula.

    Example:
        >>> harmless("=1+1"), harmless(-1.5)
        ("'=1+1", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
