"""``anomalib-stfpm infer``: find defects in images with an exported model, without torch."""

import argparse
import hashlib
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path

from . import files
from .cli import INTERRUPTED, Parser
from .heat_map import as_8_bits, as_image, as_png, colour, heat_map_as_png, levels, overlay
from .image import SUFFIXES, UnreadableImageError, is_leftover, read_image
from .machine import load
from .network import F32, PRECISIONS, THROUGHPUT, Network, model_files
from .results import Result, Results

HEAT_MAPS, OVERLAYS = "heat_maps", "overlays"
LARGEST_COUNT = 100
"""Largest number of unreadable images that the exit code tells."""

_LONGEST_NAME = 251  # bytes: a heat map adds ".png", and file systems allow 255
_QUEUED_PER_THREAD = 4


def parser() -> argparse.ArgumentParser:
    """Make the parser of the verb."""
    made = Parser(
        prog="anomalib-stfpm infer",
        description="Find defects in images with an exported model. Writes scores to results.csv and results.json, and "
        "heat maps and overlays as PNG. After an interruption, the same command resumes. The exit code is the number "
        f"of images that could not be read, at most {LARGEST_COUNT}.",
    )
    made.add_argument("--model", type=Path, required=True, help=".xml or .onnx file of the exported model")
    made.add_argument("--input", type=Path, nargs="+", required=True, help="images, and folders with images")
    made.add_argument("--output", type=Path, required=True, help="folder to write to")
    made.add_argument("--precision", choices=PRECISIONS, default=F32, help="floating-point precision")
    made.add_argument("--streams", type=int, help="images computed at the same time; by default chosen for the CPU")
    made.add_argument(
        "--full-size", action="store_true", help="heat maps and overlays of the image's size, not of the model's input"
    )
    made.add_argument("--cluster", help="score on a Ray cluster, with other options: see --cluster local --help")
    made.add_argument("--no-pictures", action="store_true", help="scores only, no heat maps and overlays")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit code.

    Raises:
        OSError: If a file of the model or an input is missing, or the output cannot be written.
        ValueError: If the model is not one, an argument is not valid, or another command is at work in the output.
    """
    on_cluster = argparse.ArgumentParser(add_help=False)
    on_cluster.add_argument("--cluster")
    if on_cluster.parse_known_args(arguments)[0].cluster is not None:
        return int(load("anomalib_stfpm_deploy.cluster.infer").main(arguments))
    given = parser().parse_args(arguments)
    images = dict(find_images(given.input))
    network = Network(given.model, given.precision, THROUGHPUT, given.streams)
    made_with = {
        "model": _digest(given.model),
        "precision": given.precision,
        "full_size": given.full_size,
        "pictures": not given.no_pictures,
    }
    job = _Job(network, given.output, full_size=given.full_size, with_maps=not given.no_pictures)
    with files.lock_folder(given.output):
        return _infer(job, images, Results(given.output, made_with))


def _infer(job: "_Job", images: dict[str, Path], results: Results) -> int:
    versions = {name: _version(path) for name, path in images.items()}
    left = [(name, path, versions[name]) for name, path in images.items() if not results.is_known(name, versions[name])]
    start = time.monotonic()
    try:
        for done, result in enumerate(_run(job, left), 1):
            results.add(result)
            show_progress(done, len(left), time.monotonic() - start)
    except KeyboardInterrupt:
        print("\nInterrupted: the same command resumes.")
        return INTERRUPTED
    unreadable = [result for result in results.finish(list(images)) if result.unreadable is not None]
    for result in unreadable:
        print(f"'{result.picture}' was left out: {result.unreadable}.")
    print(f"{len(images) - len(unreadable)} images scored, {len(unreadable)} unreadable: {job.folder}")
    return min(len(unreadable), LARGEST_COUNT)


def show_progress(done: int, total: int, seconds: float) -> None:
    """Show on a terminal how many images are done, and how long the others will take."""
    if sys.stderr.isatty():
        rate = done / max(seconds, 1e-9)
        line = f"{done}/{total} images, {rate:.1f} images/s, {(total - done) / rate:.0f} s left"
        print(f"\r{line:<60}", end="\n" if done == total else "", file=sys.stderr, flush=True)


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
            name = path.relative_to(given if given.is_dir() else given.parent)
            number, unique = 1, _as_text(name)
            while unique in names:
                number += 1
                unique = _as_text(name.with_name(f"{name.stem}_{number}{name.suffix}"))
            names.add(unique)
            yield unique, path
    if not names:
        msg = f"There are no images in {', '.join(map(str, inputs))}: they end in {', '.join(sorted(SUFFIXES))}."
        raise FileNotFoundError(msg)


def _as_text(name: Path) -> str:
    """Make a name valid UTF-8. On Linux, file names may be any bytes."""
    return name.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _images_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        msg = f"The folder '{error.filename}' cannot be read ({error.strerror}): its images would be left out."
        raise OSError(msg) from error

    # os.walk does not follow links to folders, which may form a cycle.
    for inside, _, names in os.walk(folder, onerror=refuse):
        found = (Path(inside) / name for name in names if Path(name).suffix.lower() in SUFFIXES)
        yield from (path for path in found if not is_leftover(path.relative_to(folder)))


def _version(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def _digest(model: Path) -> str:
    digest = hashlib.sha256()
    for part in model_files(model):
        digest.update(part.read_bytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class _Job:
    """Score an image and write its heat map and overlay. Threads may share it."""

    network: Network
    folder: Path
    full_size: bool
    with_maps: bool

    def __call__(self, name: str, path: Path, version: str) -> Result:
        try:
            image = read_image(path)
        except UnreadableImageError as error:
            return Result(name, version, unreadable=str(error))
        if self.with_maps and len(os.fsencode(Path(name).name)) > _LONGEST_NAME:
            return Result(name, version, unreadable="its name is too long for a heat map: rename it")
        pixels = self.network.prepare(image)
        prediction = self.network.predict(pixels)
        if not math.isfinite(prediction.score):
            return Result(name, version, unreadable="the model's score of it is not a number: export the model again")
        heat_map_name = overlay_name = None
        if self.with_maps:
            heat_map_name, overlay_name = (f"{folder}/{name}.png" for folder in (HEAT_MAPS, OVERLAYS))
            shown = as_8_bits(image) if self.full_size else as_image(pixels)
            found = levels(prediction.anomaly_map, (shown.shape[0], shown.shape[1]))
            files.write_bytes(self.folder / heat_map_name, heat_map_as_png(found), durable=False)
            files.write_bytes(self.folder / overlay_name, as_png(overlay(shown, colour(found))), durable=False)
        return Result(name, version, prediction.score, prediction.is_anomalous, heat_map_name, overlay_name)


def _run(job: _Job, images: list[tuple[str, Path, str]]) -> Iterator[Result]:
    """Run the job in more threads than the network uses, so that others read and write in the meantime."""
    threads = job.network.requests + (os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        running: set[Future[Result]] = set()
        try:
            for image in images:
                running.add(pool.submit(job, *image))
                if len(running) >= _QUEUED_PER_THREAD * threads:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            yield from (future.result() for future in as_completed(running))
        finally:
            pool.shutdown(cancel_futures=True)
