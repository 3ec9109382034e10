"""``anomalib-stfpm infer``: find defects in pictures with an exported model, without torch."""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from . import files
from .arguments import Parser
from .exit_codes import INTERRUPTED
from .heat_map import as_picture, as_png, colour, heat_map_as_png, levels, overlay
from .network import F32, PRECISIONS, THROUGHPUT, Network, digest_of
from .one_at_a_time import one_at_a_time
from .picture import SUFFIXES, UnreadablePictureError, read_picture
from .progress import Progress
from .results import Result, Results

HEAT_MAPS, OVERLAYS = "heat_maps", "overlays"
MOST_COUNTED = 100
"""Number of unreadable pictures beyond which the exit code says no more."""

_LONGEST_NAME = 251  # bytes, to which a heat map adds ".png"; file systems have 255
_AHEAD = 4  # pictures for each thread to choose from, so that none waits for the slowest


def parser() -> argparse.ArgumentParser:
    """Make the parser.

    Returns:
        A parser of the verb's arguments.
    """
    made = Parser(
        prog="anomalib-stfpm infer",
        description="Find defects in pictures with an exported model: scores in results.csv and results.json, heat "
        "maps and pictures with the heat map over them as PNG. Interrupted, the same command goes on where it was. The "
        f"exit code is the number of pictures that could not be read, at most {MOST_COUNTED}.",
    )
    made.add_argument("--model", type=Path, required=True, help=".xml or .onnx file of the exported model")
    made.add_argument("--input", type=Path, nargs="+", required=True, help="pictures, and folders with pictures")
    made.add_argument("--output", type=Path, required=True, help="folder to write to")
    made.add_argument("--precision", choices=PRECISIONS, default=F32, help="what floating point is computed in")
    made.add_argument("--streams", type=int, help="pictures computed at the same time; chosen for the CPU by default")
    made.add_argument(
        "--full-size", action="store_true", help="heat maps and overlays of the picture's size, not of the model's"
    )
    made.add_argument("--no-pictures", action="store_true", help="scores only, no heat maps and overlays")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb.

    Args:
        arguments: What the command line says after the verb.

    Returns:
        The exit code: the number of pictures that could not be read, at most 100; 130 if interrupted.

    Raises:
        OSError: If a file of the model or an input is missing, or the output cannot be written.
        ValueError: If the model is not one, an argument is not valid, or another command is at work in the output.
    """
    given = parser().parse_args(arguments)
    pictures = dict(find_pictures(given.input))
    network = Network(given.model, given.precision, THROUGHPUT, given.streams)
    made_with = {
        "model": digest_of(given.model),
        "precision": given.precision,
        "full_size": given.full_size,
        "pictures": not given.no_pictures,
    }
    with one_at_a_time(given.output):
        return _infer(network, pictures, Results(given.output, made_with), given)


def _infer(network: Network, pictures: dict[str, Path], results: Results, given: argparse.Namespace) -> int:
    job = _Job(network, given.output, full_size=given.full_size, with_pictures=not given.no_pictures)
    versions = {name: _version(path) for name, path in pictures.items()}
    left = {name: path for name, path in pictures.items() if not results.is_known(name, versions[name])}
    progress = Progress(len(left))
    try:
        for result in _all(job, left, versions, network.requests):
            results.add(result)
            progress.advance()
    except KeyboardInterrupt:
        print("\nInterrupted: the same command goes on where it was.")
        return INTERRUPTED
    unreadable = [result for result in results.finish(list(pictures)) if result.unreadable is not None]
    for result in unreadable:
        print(f"'{result.picture}' was left out: {result.unreadable}.")
    print(f"{len(pictures) - len(unreadable)} pictures scored, {len(unreadable)} unreadable: {given.output}")
    return min(len(unreadable), MOST_COUNTED)


def find_pictures(inputs: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Find pictures.

    Args:
        inputs: Pictures, and folders that are searched with all folders in them.

    Yields:
        For each picture a name, its path below its folder, and the path. Of inputs with the same names, those after the
        first are told apart by a number.

    Raises:
        FileNotFoundError: If an input does not exist, or no picture is found.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     for name in ("2.png", "1.jpg", "readme.txt"):
        ...         Path(folder, name).touch()
        ...     [name for name, _ in find_pictures([Path(folder)])]
        ['1.jpg', '2.png']
    """
    names: set[str] = set()
    for given in inputs:
        if not given.exists():
            msg = f"'{given}' does not exist."
            raise FileNotFoundError(msg)
        found = [given] if given.is_file() else sorted(_below(given))
        for path in found:
            name = path.relative_to(given if given.is_dir() else given.parent)
            number, unique = 1, _as_text(name)
            while unique in names:
                number += 1
                unique = _as_text(name.with_name(f"{name.stem}_{number}{name.suffix}"))
            names.add(unique)
            yield unique, path
    if not names:
        msg = f"There are no pictures in {', '.join(map(str, inputs))}: they end in {', '.join(sorted(SUFFIXES))}."
        raise FileNotFoundError(msg)


def _as_text(name: Path) -> str:
    """A name that every file of results can hold: on Linux, names of files may be any bytes."""
    return name.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _below(folder: Path) -> Iterator[Path]:
    # It follows no links to folders, which may lead in circles.
    for inside, _, names in os.walk(folder, onerror=_refuse):
        yield from (Path(inside) / name for name in names if Path(name).suffix.lower() in SUFFIXES)


def _refuse(error: OSError) -> None:
    msg = f"The folder '{error.filename}' cannot be read ({error.strerror}): its pictures would be left out."
    raise OSError(msg) from error


def _version(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


class _Job:
    """What is done with one picture, by any thread."""

    def __init__(self, network: Network, folder: Path, *, full_size: bool, with_pictures: bool) -> None:
        self._network = network
        self._folder = folder
        self._full_size = full_size
        self._with_pictures = with_pictures

    def __call__(self, name: str, path: Path, version: str) -> Result:
        try:
            picture = read_picture(path)
        except UnreadablePictureError as error:
            return Result(name, version, unreadable=str(error))
        if self._with_pictures and len(os.fsencode(Path(name).name)) > _LONGEST_NAME:
            return Result(name, version, unreadable="its name is too long for a heat map: rename it")
        pixels = self._network.prepare(picture)
        prediction = self._network.predict(pixels)
        if not math.isfinite(prediction.score):
            return Result(name, version, unreadable="the model's score of it is not a number: export the model again")
        heat_map_name = overlay_name = None
        if self._with_pictures:
            heat_map_name, overlay_name = (f"{folder}/{name}.png" for folder in (HEAT_MAPS, OVERLAYS))
            shown = picture if self._full_size else as_picture(pixels)
            found = levels(prediction.anomaly_map, (shown.shape[0], shown.shape[1]))
            files.write_bytes(self._folder / heat_map_name, heat_map_as_png(found), durable=False)
            files.write_bytes(self._folder / overlay_name, as_png(overlay(shown, colour(found))), durable=False)
        return Result(name, version, prediction.score, prediction.is_anomalous, heat_map_name, overlay_name)


def _all(job: _Job, pictures: dict[str, Path], versions: dict[str, str], requests: int) -> Iterator[Result]:
    """Do all pictures, some at a time: while some are computed, others are read and written."""
    threads = requests + (os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[Result]] = set()
        try:
            for name, path in pictures.items():
                running.add(pool.submit(job, name, path, versions[name]))
                while len(running) >= _AHEAD * threads:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (one.result() for one in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (one.result() for one in done)
        finally:
            pool.shutdown(cancel_futures=True)
