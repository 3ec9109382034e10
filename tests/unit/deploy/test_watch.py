"""A folder is watched: every image is scored once, when it is complete, in bounded memory."""

import threading
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalib_stfpm_deploy.infer import watch
from anomalib_stfpm_deploy.infer.watch import Seen, Watch
from anomalib_stfpm_deploy.results import Result

MADE_WITH = {"model": "a"}


@pytest.fixture(autouse=True)
def _time_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(watch, "_UNCHANGED_SECONDS", 0.03)
    monkeypatch.setattr(watch, "_INCOMPLETE_SECONDS", 0.3)


class Line:
    """A watched folder, where an image is readable if its text ends with a full stop."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "images"
        self.folder.mkdir()
        (root / "output").mkdir()
        self.seen = Seen(root / "output", MADE_WITH)
        self.stop = threading.Event()
        self.read: list[str] = []

    def score(self, name: str, path: Path, version: str) -> Result:
        try:
            text = path.read_text()
        except FileNotFoundError:
            return Result(name, version, unreadable="it is gone")
        self.read.append(text)
        return (
            Result(name, version, float(len(text))) if text.endswith(".") else Result(name, version, unreadable="cut")
        )

    def results(self) -> Iterator[Result]:
        return Watch(self.score, 2, 4, self.folder, self.seen).results(self.stop)

    def first(self, number: int) -> list[Result]:
        """The first results, after which it stops."""
        found = []
        for result in self.results():
            found.append(result)
            if len(found) == number:
                self.stop.set()
        self.stop.clear()
        return found

    def for_seconds(self, seconds: float) -> list[Result]:
        threading.Timer(seconds, self.stop.set).start()
        found = list(self.results())
        self.stop.clear()
        return found


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    yield made
    made.seen.close()


def test_each_image_is_scored_once_in_all_folders_and_over_restarts(line: Line) -> None:
    (line.folder / "deeper").mkdir()
    for name in ("1.png", "2.JPG", "deeper/1.png", "notes.txt", ".hidden.png"):
        (line.folder / name).write_text("image.")
    assert sorted(one.picture for one in line.first(3)) == ["1.png", "2.JPG", "deeper/1.png"]
    (line.folder / "3.png").write_text("more.")
    assert [(one.picture, one.score) for one in line.for_seconds(0.3)] == [("3.png", 5)]


def test_a_file_that_is_written_slowly_is_read_when_it_is_complete(line: Line) -> None:
    def write() -> None:
        with (line.folder / "slow.png").open("w") as file:
            for _ in range(20):
                file.write("part ")
                file.flush()
                time.sleep(0.01)
            file.write("end.")

    writer = threading.Thread(target=write)
    writer.start()
    (result,) = line.first(1)
    writer.join()
    assert (result.unreadable, result.score) == (None, 104)


def test_a_writer_that_pauses_is_waited_for(line: Line) -> None:
    def write() -> None:
        with (line.folder / "slow.png").open("w") as file:
            file.write("first half, ")
            file.flush()
            time.sleep(0.15)  # longer than a file must stay the same
            file.write("second half.")

    writer = threading.Thread(target=write)
    writer.start()
    found = line.for_seconds(0.6)
    writer.join()
    assert [(one.score, one.unreadable) for one in found] == [(24, None)]
    assert len(line.read) > 1


def test_a_file_that_stays_broken_is_unreadable_once_and_again_if_it_changes(line: Line) -> None:
    (line.folder / "cut.png").write_text("half an image")
    assert [(one.picture, one.unreadable) for one in line.for_seconds(0.8)] == [("cut.png", "cut")]
    assert len(line.read) < 10  # it is not tried all the time
    (line.folder / "cut.png").write_text("a whole image.")
    assert [(one.picture, one.score) for one in line.for_seconds(0.3)] == [("cut.png", 14)]


def test_a_file_that_is_moved_away_is_left_out(line: Line) -> None:
    (line.folder / "1.png").write_text("no whole image")
    threading.Timer(0.1, (line.folder / "1.png").unlink).start()
    assert line.for_seconds(0.6) == []


def test_memory_does_not_grow_with_the_images(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_MOST_WAITING", 50)
    monkeypatch.setattr(line, "read", _Nothing())
    peaks = []
    for start, number in ((0, 150), (150, 1000)):
        for index in range(start, start + number):
            (line.folder / f"{index}.png").write_text("image.")
        tracemalloc.start()
        for seen, _ in enumerate(line.results(), 1):
            if seen == number:
                line.stop.set()
        line.stop.clear()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0] + 100_000


class _Nothing(list[str]):
    """A list that keeps nothing."""

    def append(self, text: str) -> None:
        del text


def test_an_error_of_scoring_and_a_folder_that_is_gone_end_it(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, path: Path, version: str) -> Result:
        del name, path, version
        message = "the disk is full."
        raise OSError(message)

    (line.folder / "1.png").write_text("image.")
    monkeypatch.setattr(line, "score", fail)
    with pytest.raises(OSError, match="the disk is full"):
        list(line.results())
    (line.folder / "1.png").unlink()
    line.folder.rmdir()
    with pytest.raises(OSError, match=r"images' cannot be read \(No such file"):
        list(line.results())


def test_images_of_another_model_are_not_mixed(tmp_path: Path) -> None:
    Line(tmp_path).seen.close()
    with pytest.raises(ValueError, match="watched with another model or other options: give another folder"):
        Seen(tmp_path / "output", {"model": "b"})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "watched.sqlite").write_text("mine, " * 1000)
    with pytest.raises(ValueError, match=r"watched.sqlite' is not of infer --watch \(file is not a database\)"):
        Seen(tmp_path / "other", MADE_WITH)
