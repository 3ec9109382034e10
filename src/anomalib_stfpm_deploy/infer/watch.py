"""``infer --watch``: score images as they arrive in a folder."""

import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

from anomalib_stfpm_deploy.image import SUFFIXES, is_leftover
from anomalib_stfpm_deploy.infer.found import as_name, version_of
from anomalib_stfpm_deploy.results import Result

SEEN_FILE = "watched.sqlite"

_SECONDS_BETWEEN_LOOKS = 0.2
_UNCHANGED_SECONDS = 0.4
"""How long size and modification time of a file must stay the same before it is read."""
_INCOMPLETE_SECONDS = 10.0
"""How long a file that cannot be read may stay the same before it is said to be unreadable."""
_REST = 4
"""How many times as long as a look takes there is at least until the next: large folders take long."""
_MOST_WAITING = 1000
"""Most files to keep in memory that wait to be read. Others are found again at the next look."""

Score = Callable[[str, Path, str], Result]


class Seen:
    """Which images have been scored, on disk: so memory stays bounded, and a restart scores none of them again.

    Args:
        folder: The output folder.
        made_with: Model and options. A folder holds images of the same ones only.

    Raises:
        ValueError: If the folder is of another model or other options, or the file is not of this command.
        OSError: If it cannot be written.
    """

    def __init__(self, folder: Path, made_with: dict[str, Any]) -> None:
        self._path = folder / SEEN_FILE
        with self._in_errors():
            self._database = sqlite3.connect(self._path)
            self._database.execute("CREATE TABLE IF NOT EXISTS made_with (options TEXT)")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS seen (name TEXT PRIMARY KEY, version TEXT) WITHOUT ROWID"
            )
            options = json.dumps(made_with, sort_keys=True)
            before = self._database.execute("SELECT options FROM made_with").fetchone()
            if before is None:
                self._database.execute("INSERT INTO made_with VALUES (?)", (options,))
                self._database.commit()
        if before is not None and before[0] != options:
            msg = f"'{folder}' holds images that were watched with another model or other options: give another folder."
            raise ValueError(msg)

    def knows(self, name: str, version: str) -> bool:
        """Return whether an image was scored in this version."""
        with self._in_errors():
            found = self._database.execute("SELECT version FROM seen WHERE name = ?", (name,)).fetchone()
        return found is not None and found[0] == version

    def add(self, name: str, version: str) -> None:
        """Remember that an image was scored, on disk at the next :meth:`save`."""
        with self._in_errors():
            self._database.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (name, version))

    def save(self) -> None:
        """Write what was added to disk, which takes as long for many images as for one."""
        with self._in_errors():
            self._database.commit()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @contextmanager
    def _in_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            msg = f"'{self._path}' cannot be written ({error})."
            raise OSError(msg) from error
        except sqlite3.DatabaseError as error:
            msg = f"'{self._path}' is not of infer --watch ({error}): give another output folder."
            raise ValueError(msg) from error


@dataclass
class _Arriving:
    """A file that is to be read, once it is complete."""

    path: Path
    version: str
    since: float
    next_try: float


class Watch:
    """Look for new images in a folder again and again, and score them once they are complete.

    A file is read when its size and modification time have not changed for a while. If it is not a whole image then, it
    is tried again, and said to be unreadable if it does not change.

    Args:
        score: Scores the image of a name, path and version, in any thread.
        threads: Number of threads to score in.
        queued: Most images to give to them at once.
        folder: The folder to watch, with all folders in it.
        seen: What has been scored.
    """

    def __init__(self, score: Score, threads: int, queued: int, folder: Path, seen: Seen) -> None:
        self._score = score
        self._pool = ThreadPoolExecutor(threads)
        self._queued = queued
        self._folder = folder
        self._seen = seen
        self._arriving: dict[str, _Arriving] = {}
        self._running: dict[Future[Result], str] = {}

    def results(self, stop: threading.Event) -> Iterator[Result]:
        """Yield a result for each image, until it is to stop and what has been begun is done."""
        next_look = 0.0
        try:
            while self._running or not stop.is_set():
                start = time.monotonic()
                if not stop.is_set() and start >= next_look:
                    self._seen.save()
                    self._look()
                    took = time.monotonic() - start
                    next_look = start + took + max(_SECONDS_BETWEEN_LOOKS, _REST * took)
                if not stop.is_set():
                    self._begin()
                if self._running:
                    done, _ = wait(self._running, _SECONDS_BETWEEN_LOOKS, FIRST_COMPLETED)
                    for future in done:
                        yield from self._finish(future)
                else:
                    stop.wait(_SECONDS_BETWEEN_LOOKS)
        finally:
            self._seen.save()
            self._pool.shutdown(cancel_futures=True)

    def _look(self) -> None:
        """Find images that have not been scored, as many as may wait."""
        now, arriving = time.monotonic(), {}
        start = len(os.path.join(self._folder, ""))  # a Path has no separator at its end
        for entry in _images_below(str(self._folder)):
            name, version = as_name(entry.path[start:]), version_of(entry)
            if self._seen.knows(name, version):
                continue
            before = self._arriving.get(name)
            if before is None or before.version != version:
                before = _Arriving(Path(entry.path), version, now, now + _UNCHANGED_SECONDS)
            arriving[name] = before
            if len(arriving) >= _MOST_WAITING:
                break
        self._arriving = arriving

    def _begin(self) -> None:
        """Give to the threads what has not changed for long enough."""
        now, running = time.monotonic(), set(self._running.values())
        for name, one in self._arriving.items():
            if len(self._running) >= self._queued:
                break
            if now >= one.next_try and name not in running:
                self._running[self._pool.submit(self._score, name, one.path, one.version)] = name

    def _finish(self, future: Future[Result]) -> Iterator[Result]:
        name, result = self._running.pop(future), future.result()
        one = self._arriving.get(name)
        is_unchanged = one is not None and one.version == result.version
        if result.unreadable is not None:
            if one is None or not is_unchanged:
                return
            if not one.path.exists():
                one.next_try = time.monotonic() + _INCOMPLETE_SECONDS
                return
            unchanged = time.monotonic() - one.since
            if unchanged < _INCOMPLETE_SECONDS:  # it may be written still
                one.next_try = one.since + min(2 * unchanged, _INCOMPLETE_SECONDS)
                return
        yield result
        self._seen.add(name, result.version)
        if is_unchanged:
            del self._arriving[name]


def _images_below(folder: str) -> Iterator[os.DirEntry[str]]:
    """Find images one by one, without a list of all names. Folders may vanish meanwhile, but not the one watched."""
    waiting = [folder]
    while waiting:
        inside = waiting.pop()
        try:
            with os.scandir(inside) as entries:
                for entry in entries:
                    if is_leftover(PurePath(entry.name)):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # many, so strings
                        yield entry
        except OSError as error:
            if inside != folder and not Path(inside).exists():
                continue
            msg = f"The folder '{inside}' cannot be read ({error.strerror}): its images would be left out."
            raise OSError(msg) from error


def watch(score: Score, threads: int, queued: int, folder: Path, seen: Seen) -> None:
    """Print a line of JSON for each image that arrives, until SIGINT or SIGTERM.

    Raises:
        OSError: If the folder can no longer be read, or nobody reads what is printed.
    """
    print(f"Watching '{folder}': Ctrl-C stops.", file=sys.stderr, flush=True)
    with _stopped_by_signals() as stop:
        for result in Watch(score, threads, queued, folder, seen).results(stop):
            line = {name: value for name, value in vars(result).items() if name != "version"}
            try:
                print(json.dumps(line, default=vars), flush=True)
            except BrokenPipeError as error:
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115  # Python flushes it at the end
                msg = "Nobody reads the results any more: the program after the pipe has ended."
                raise OSError(msg) from error
    print("Stopped: the same command goes on with images that have arrived since.", file=sys.stderr)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """Give an event that the first SIGINT or SIGTERM sets. The second acts as ever."""
    stop = threading.Event()
    before: dict[int, Any] = {}
    numbers = (signal.SIGINT, signal.SIGTERM)

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        stop.set()
        signal.signal(number, before[number])

    for each in numbers:
        before[each] = signal.signal(each, on_signal)
    try:
        yield stop
    finally:
        for each in numbers:
            signal.signal(each, before[each])
