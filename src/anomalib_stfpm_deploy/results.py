"""What is known of pictures so far, kept so that an interrupted job goes on where it was, even after a power cut."""

import csv
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

from . import files

JSON_FILE, CSV_FILE, JOURNAL_FILE = "results.json", "results.csv", "results.partial.jsonl"


@dataclass(frozen=True)
class Result:
    """What a model says of a picture, or why it says nothing.

    Args:
        picture: Path of the picture, as the user would look for it.
        version: Size and time of change of the file: another one is another picture.
        score: Image score; ``None`` for a picture that cannot be read.
        is_anomalous: Whether the score is above the threshold; ``None`` if it is not known.
        heat_map: Path of the heat map in the output folder.
        overlay: Path of the picture with the heat map over it.
        unreadable: Why the picture cannot be read.
    """

    picture: str
    version: str
    score: float | None = None
    is_anomalous: bool | None = None
    heat_map: str | None = None
    overlay: str | None = None
    unreadable: str | None = None


class Results:
    """Results in an output folder.

    They are in a journal while they are made, a line each, and in ``results.json`` and ``results.csv`` at the end.

    Args:
        folder: The output folder.
        made_with: What they are made with: results of anything else have no place beside them.

    Raises:
        ValueError: If the folder holds results that were made with something else, or files that are no results.
        OSError: If the folder cannot be written to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     results = Results(Path(folder), {"model": "of today"})
        ...     results.add(Result("1.png", "10 bytes", score=0.25))
        ...     results.is_known("1.png", "10 bytes"), [result.score for result in results.finish(["1.png"])]
        (True, [0.25])
    """

    def __init__(self, folder: Path, made_with: dict[str, Any]) -> None:
        self._folder = folder
        self._made_with = made_with
        self._results: dict[str, Result] = {}
        with files.naming(folder):
            folder.mkdir(parents=True, exist_ok=True)
        self._read_json()
        complete_lines = self._read_journal()
        with files.naming(folder / JOURNAL_FILE):
            self._journal: TextIO = (folder / JOURNAL_FILE).open(
                "w" if complete_lines is None else "r+", encoding="utf-8"
            )
        if complete_lines is None:
            self._write_line(made_with)
        else:
            self._journal.truncate(complete_lines)  # a power cut may have left half a line
            self._journal.seek(0, io.SEEK_END)

    def is_known(self, picture: str, version: str) -> bool:
        """Find out whether a picture is done.

        Args:
            picture: Its path.
            version: Size and time of change of the file.

        Returns:
            Whether its result is there, with the files that belong to it. A picture that could not be read is tried
            again.
        """
        result = self._results.get(picture)
        if result is None or result.version != version or result.unreadable is not None:
            return False
        written = [self._folder / name for name in (result.heat_map, result.overlay) if name is not None]
        return all(path.is_file() and path.stat().st_size > 0 for path in written)

    def add(self, result: Result) -> None:
        """Keep a result.

        Args:
            result: The result.

        Raises:
            OSError: If it cannot be written.
        """
        self._results[result.picture] = result
        self._write_line(asdict(result))

    def finish(self, pictures: list[str]) -> list[Result]:
        """Write JSON and CSV, and remove the journal.

        Args:
            pictures: Paths of all pictures, in the order to write them in.

        Returns:
            Their results.
        """
        self._journal.close()
        results = [self._results[picture] for picture in pictures]
        record = {"made_with": self._made_with, "results": [asdict(result) for result in results]}
        files.write_text(self._folder / JSON_FILE, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        files.write_text(self._folder / CSV_FILE, _as_csv(results))
        (self._folder / JOURNAL_FILE).unlink()
        return results

    def _write_line(self, record: dict[str, Any]) -> None:
        with files.naming(self._folder / JOURNAL_FILE):
            self._journal.write(json.dumps(record, ensure_ascii=False) + "\n")
            self._journal.flush()

    def _read_json(self) -> None:
        path = self._folder / JSON_FILE
        if path.is_file():
            with _refused(path):
                record = json.loads(path.read_text(encoding="utf-8"))
                made_with, results = dict(record["made_with"]), [_read(result) for result in record["results"]]
            self._take(made_with, results)

    def _read_journal(self) -> int | None:
        """Take over the results of an interrupted job; the number of bytes of its complete lines."""
        path = self._folder / JOURNAL_FILE
        text = path.read_bytes() if path.is_file() else b""
        complete = text.rpartition(b"\n")[0] + b"\n"
        if not complete.strip():
            return None
        with _refused(path):
            first, *others = map(json.loads, complete.splitlines())
            made_with, results = dict(first), [_read(result) for result in others]
        self._take(made_with, results)
        return len(complete)

    def _take(self, made_with: dict[str, Any], results: list[Result]) -> None:
        if made_with != self._made_with:
            different = [name for name, value in self._made_with.items() if made_with.get(name) != value]
            msg = (
                f"'{self._folder}' holds results that were made with another {' and '.join(different)}: "
                "give another output folder."
            )
            raise ValueError(msg)
        self._results |= {result.picture: result for result in results}


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        msg = f"'{path}' is not a list of results: give another output folder."
        raise ValueError(msg) from error


def _read(record: dict[str, Any]) -> Result:
    result = Result(**record)
    for name in (result.heat_map, result.overlay):
        if name is not None and (Path(name).is_absolute() or ".." in Path(name).parts):
            msg = f"'{name}' is not in the output folder."
            raise ValueError(msg)
    return result


def _as_csv(results: list[Result]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)  # whose lines end as RFC 4180 has it: only then are carriage returns in names quoted
    writer.writerow(["picture", "score", "is_anomalous", "heat_map", "overlay", "unreadable"])
    for result in results:
        row = (result.picture, result.score, result.is_anomalous, result.heat_map, result.overlay, result.unreadable)
        writer.writerow(["" if value is None else harmless(value) for value in row])
    return text.getvalue()


def harmless(value: object) -> object:
    """Keep a spreadsheet from taking a name for a formula.

    Args:
        value: A value of a CSV file.

    Returns:
        It, with an apostrophe before a text that would be taken for a formula.

    Example:
        >>> harmless("=1+1"), harmless(-1.5)
        ("'=1+1", -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
