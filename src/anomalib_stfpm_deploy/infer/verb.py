"""``anomalib-stfpm infer``: find defects in images with an exported model, without torch."""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cli import INTERRUPTED, Parser
from anomalib_stfpm_deploy.machine import load
from anomalib_stfpm_deploy.network import F32, PRECISIONS, THROUGHPUT, Network, model_digest, model_files
from anomalib_stfpm_deploy.results import Results
from anomalib_stfpm_deploy.thresholds import FALSE_ALARM_RATE, Thresholds

from .coco import write_coco
from .found import find_images, version_of
from .gallery import write_gallery
from .job import Job, run
from .normal_images import measure_thresholds
from .watch import Seen, watch

LARGEST_COUNT = 100
"""Largest number of unreadable images that the exit code tells."""

ANOMALOUS = 101
"""Exit code of ``--fail-on-anomaly`` if an image is anomalous."""


def parser() -> argparse.ArgumentParser:
    """Make the parser of the verb."""
    made = Parser(
        prog="anomalib-stfpm infer",
        description="Find defects in images with an exported model. Writes scores and regions to results.csv, "
        "results.json and coco.json, heat maps and overlays as PNG, and gallery.html to look at. After an "
        "interruption, the same command resumes. The exit code is the number of images that could not be read, at most "
        f"{LARGEST_COUNT}.",
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
    made.add_argument("--no-pictures", action="store_true", help="no heat maps, overlays and gallery")
    made.add_argument(
        "--min-area",
        type=float,
        default=0,
        help="leave out regions of fewer pixels of the image",
    )
    made.add_argument("--threshold", type=float, help="image score above which an image is anomalous")
    made.add_argument(
        "--normal-images", type=Path, nargs="+", help="images known to be good, to set the thresholds from"
    )
    made.add_argument(
        "--false-alarm-rate",
        type=float,
        help=f"share of normal images above the threshold, with --normal-images; {FALSE_ALARM_RATE} unless given",
    )
    made.add_argument(
        "--watch",
        action="store_true",
        help="score images as they arrive in the input folder, with a line of JSON for each, until Ctrl-C or SIGTERM",
    )
    made.add_argument("--fail-on-anomaly", action="store_true", help=f"exit with {ANOMALOUS} if any image is anomalous")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit code.

    Raises:
        OSError: If a file of the model or an input is missing, or the output cannot be written.
        ValueError: If the model is not one, an argument is not valid, or another command is at work in the output.
    """
    on_cluster = Parser(add_help=False)
    on_cluster.add_argument("--cluster")
    if on_cluster.parse_known_args(arguments)[0].cluster is not None:
        return int(load("anomalib_stfpm_deploy.cluster.infer").main(arguments))
    given = parser().parse_args(arguments)
    _check(given)
    images = {} if given.watch else dict(find_images(given.input))
    has_own = given.threshold is None and given.normal_images is None
    network = Network(given.model, given.precision, THROUGHPUT, given.streams, clamp=has_own)
    thresholds = _thresholds(given, network)
    if given.fail_on_anomaly and thresholds.image is None:
        msg = "--fail-on-anomaly needs a threshold, which this model has not: give --threshold or --normal-images."
        raise ValueError(msg)
    made_with = {
        "model": model_digest(part.read_bytes() for part in model_files(given.model)),
        "precision": given.precision,
        "full_size": given.full_size,
        "pictures": not given.no_pictures,
        "thresholds": asdict(thresholds),
        "false_alarm_rate": None if given.normal_images is None else _rate(given),
        "min_area": given.min_area,
        "clamping": has_own,
    }
    job = Job(
        network,
        given.output,
        full_size=given.full_size,
        with_maps=not given.no_pictures,
        thresholds=thresholds,
        min_area=given.min_area,
        with_thumbnails=not given.watch,
    )
    with files.lock_folder(given.output):
        if given.watch:
            with closing(Seen(given.output, made_with)) as seen:
                watch(job, job.threads, job.queued, given.input[0], seen)
            return 0
        return _infer(job, images, Results(given.output, made_with), fail_on_anomaly=given.fail_on_anomaly)


def _check(given: argparse.Namespace) -> None:
    if given.threshold is not None and given.normal_images is not None:
        msg = "--threshold sets a threshold by hand, --normal-images sets it from images: give one of them."
        raise ValueError(msg)
    if given.threshold is not None and not math.isfinite(given.threshold):
        msg = f"--threshold must be a finite number: got {given.threshold}."
        raise ValueError(msg)
    if not 0 <= given.min_area < math.inf:
        msg = f"--min-area must be a number of pixels: got {given.min_area}."
        raise ValueError(msg)
    for one in given.input:
        if one.is_dir() and given.output.resolve().is_relative_to(one.resolve()):
            msg = f"'{given.output}' is in '{one}', where its heat maps would be scored: give another output."
            raise ValueError(msg)
    if given.watch:
        _check_watch(given)
    if given.false_alarm_rate is not None and given.normal_images is None:
        msg = "--false-alarm-rate needs images that are known to be good: give --normal-images."
        raise ValueError(msg)


def _check_watch(given: argparse.Namespace) -> None:
    if len(given.input) != 1 or not given.input[0].is_dir():
        msg = f"--watch takes one folder that exists: got {', '.join(map(str, given.input))}."
        raise ValueError(msg)
    if given.fail_on_anomaly:
        msg = "--watch ends with no verdict over all images: leave out --fail-on-anomaly, and read the lines."
        raise ValueError(msg)


def _thresholds(given: argparse.Namespace, network: Network) -> Thresholds:
    if given.threshold is not None:
        return Thresholds(given.threshold, network.thresholds.pixel)
    if given.normal_images is None:
        return network.thresholds
    thresholds, number = measure_thresholds(network, given.normal_images, _rate(given))
    said = (
        f"Thresholds from {number} normal images: {thresholds.image:.6g} of scores, {thresholds.pixel:.6g} of pixels."
    )
    print(said, file=sys.stderr if given.watch else sys.stdout)
    return thresholds


def _rate(given: argparse.Namespace) -> float:
    return FALSE_ALARM_RATE if given.false_alarm_rate is None else given.false_alarm_rate


def _infer(job: Job, images: dict[str, Path], results: Results, *, fail_on_anomaly: bool) -> int:
    versions = {name: version_of(path) for name, path in images.items()}
    left = [(name, path, versions[name]) for name, path in images.items() if not results.is_known(name, versions[name])]
    start = time.monotonic()
    try:
        for done, result in enumerate(run(job, left), 1):
            results.add(result)
            show_progress(done, len(left), time.monotonic() - start)
    except KeyboardInterrupt:
        print("\nInterrupted: the same command resumes.")
        return INTERRUPTED
    finished = results.finish(list(images))
    write_coco(job.folder, finished)
    if job.with_maps:
        write_gallery(job.folder, finished, job.thresholds)
    unreadable = [result for result in finished if result.unreadable is not None]
    anomalous = sum(bool(result.is_anomalous) for result in finished)
    for result in unreadable:
        print(f"'{result.picture}' was left out: {result.unreadable}.")
    counts = f"{len(images) - len(unreadable)} images scored, {len(unreadable)} unreadable, {anomalous} anomalous"
    print(f"{counts}: {job.folder}")
    return ANOMALOUS if fail_on_anomaly and anomalous else min(len(unreadable), LARGEST_COUNT)


def show_progress(done: int, total: int, seconds: float) -> None:
    """Show on a terminal how many images are done, and how long the others will take."""
    if sys.stderr.isatty():
        rate = done / max(seconds, 1e-9)
        line = f"{done}/{total} images, {rate:.1f} images/s, {(total - done) / rate:.0f} s left"
        print(f"\r{line:<60}", end="\n" if done == total else "", file=sys.stderr, flush=True)
