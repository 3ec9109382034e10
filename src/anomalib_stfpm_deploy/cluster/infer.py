"""``anomalib-stfpm infer --cluster``: score millions of images on a Ray cluster, without torch."""

import argparse
import logging
import math
import os
import platform
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cli import INTERRUPTED, Parser, configure_libraries
from anomalib_stfpm_deploy.cluster.connection import HELP, connected
from anomalib_stfpm_deploy.cluster.partitions import KnownImages, Partitions
from anomalib_stfpm_deploy.cluster.storage import Found, Place, find_images
from anomalib_stfpm_deploy.image import ImageArray, UnreadableImageError, read_image
from anomalib_stfpm_deploy.infer.verb import LARGEST_COUNT, show_progress
from anomalib_stfpm_deploy.machine import load
from anomalib_stfpm_deploy.network import F32, LATENCY, PRECISIONS, Network, model_digest, model_files
from anomalib_stfpm_deploy.results import Result

_ROUND = 1_000_000  # images that are listed before they are scored: bounds the memory of this process
_PARTITION = 1000  # images of a Parquet file, which are also scored again together if their worker dies
_PARTITIONS_OF_A_WORKER = 4  # at least, so that all workers end at about the same time
_READ_AHEAD = 8  # images
_ENVIRONMENT = ("OPENBLAS_NUM_THREADS", "OPENCV_LOG_LEVEL", "OPENCV_IO_MAX_IMAGE_PIXELS")


def parser() -> argparse.ArgumentParser:
    """Make the parser of the verb with a cluster."""
    made = Parser(
        prog="anomalib-stfpm infer --cluster",
        description="Score images with an exported model on a Ray cluster, and write the scores as Parquet files to "
        "the folder 'scores' of the output. After an interruption, the same command resumes. The exit code is the "
        f"number of images that could not be read, at most {LARGEST_COUNT}.",
    )
    made.add_argument("--cluster", required=True, help=HELP)
    made.add_argument("--model", type=Path, required=True, help=".xml or .onnx file of the exported model")
    made.add_argument(
        "--input", nargs="+", required=True,
        help="images, and folders with images, that all machines of the cluster see: paths, or URIs such as s3://parts/new",
    )  # fmt: skip
    made.add_argument("--output", required=True, help="folder to write to that all machines see: a path or a URI")
    made.add_argument("--precision", choices=PRECISIONS, default=F32, help="floating-point precision")
    made.add_argument("--workers", type=int, help="most workers at a time; by default as many as the CPUs allow")
    made.add_argument("--cpus-per-worker", type=int, default=1, help="CPUs and threads of a worker")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit code.

    Raises:
        MissingPackageError: If Ray is not installed.
        OSError: If no cluster answers, a file of the model or an input is missing, or the output cannot be written.
        ValueError: If the model is not one, an argument is not valid, another command is at work in the output, or a
            machine of the cluster does not see the images or the output.
    """
    configure_libraries()
    given = parser().parse_args(arguments)
    for name in ("workers", "cpus_per_worker"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            msg = f"--{name.replace('_', '-')} must be at least 1: got {getattr(given, name)}."
            raise ValueError(msg)
    Network(given.model, given.precision)  # refuses here what every worker would
    inputs, output = [Place.of(one) for one in given.input], Place.of(given.output)
    found = find_images(inputs)
    images = chain([next(found)], found)  # refuses here what it cannot find
    model = {part.name: part.read_bytes() for part in model_files(given.model)}
    made_with = {"model": model_digest(model.values()), "precision": given.precision}
    lock = files.lock_folder(Path(output.path)) if output.is_local else nullcontext()
    try:
        with lock, connected(given.cluster) as ray:
            results = Partitions.in_folder(output, made_with)
            pipeline = _Pipeline(ray, model, given.precision, given.cpus_per_worker, given.workers, inputs, results)
            done, before = pipeline.run(images)
    except KeyboardInterrupt:
        print("\nInterrupted: the same command resumes.")
        return INTERRUPTED
    scored = before + done["images"] - done["unreadable"]
    print(f"{scored} images scored, {before} of them before, {done['unreadable']} unreadable: {results.scores.given}")
    return min(done["unreadable"], LARGEST_COUNT)


@dataclass(frozen=True)
class _Pipeline:
    """Scores on the cluster the images that are left."""

    ray: Any
    model: dict[str, bytes]
    precision: str
    cpus: int
    workers: int | None
    inputs: Sequence[Place]
    results: Partitions

    def run(self, images: Iterator[Found]) -> tuple[Counter[str], int]:
        """Score what is left; count the images and the unreadable ones of them, and those that were known before."""
        workers = self.workers or max(1, int(self.ray.cluster_resources().get("CPU", 1)) // self.cpus)
        known = KnownImages(self.results)
        done, before, start = Counter[str](), 0, time.monotonic()
        while found := list(islice(images, _ROUND)):
            left = known.left_of(found)
            before += len(found) - len(left)
            size = max(1, min(_PARTITION, math.ceil(len(left) / (_PARTITIONS_OF_A_WORKER * workers))))
            parts = [left[begin : begin + size] for begin in range(0, len(left), size)]
            total = done["images"] + len(left)
            for counted in self._score(parts, workers) if parts else ():
                done.update(counted)
                show_progress(done["images"], total, time.monotonic() - start)
        return done, before

    def _score(self, parts: list[list[Found]], workers: int) -> Iterator[dict[str, int]]:
        data: Any = load("ray.data")
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        columns = ("image", "version", "input")
        tables = [pa.table(dict(zip(columns, zip(*part, strict=True), strict=True))) for part in parts]
        scorer = ([self.ray.put(self.model)], self.precision, self.cpus, self.inputs, self.results)
        counts = data.from_arrow(tables).map_batches(
            _Scorer,
            batch_size=None,
            batch_format="pyarrow",
            fn_constructor_args=scorer,
            num_cpus=self.cpus,
            compute=data.ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=min(workers, len(parts)), max_tasks_in_flight_per_actor=2
            ),
            runtime_env={"env_vars": {name: os.environ[name] for name in _ENVIRONMENT}},
        )
        try:
            for batch in counts.iter_batches(batch_size=None):
                yield {name: int(numbers.sum()) for name, numbers in batch.items()}
        except self.ray.exceptions.RayError as error:
            raise _cause(error) from error


def _cause(error: BaseException) -> Exception:
    """Find the error of this package that made a worker fail."""
    for line in str(error).splitlines():
        if line.startswith("ValueError: "):
            return ValueError(line.removeprefix("ValueError: "))
    return OSError(f"The cluster could not go on ({' '.join(str(error).split())[-200:]}).")


class _Scorer:
    """A worker of the cluster: loads the model once, and scores a partition at a time."""

    def __init__(
        self,
        model: list[Any],  # a reference to its files
        precision: str,
        cpus: int,
        inputs: Sequence[Place],
        results: Partitions,
    ) -> None:
        for place, is_seen in (*((one, one.exists) for one in inputs), (results.place, results.are_seen)):
            try:
                reason = None if is_seen() else "it is not there"
            except OSError as error:
                reason = " ".join(str(error).split()).rstrip(".")
            if reason is not None:
                msg = (
                    f"The machine '{platform.node()}' does not see '{place.given}' ({reason}): give images and an "
                    "output on a file system that all machines of the cluster share, at the same path."
                )
                raise ValueError(msg)
        contents: dict[str, bytes] = load("ray").get(model[0])
        with TemporaryDirectory() as folder:
            for name, content in contents.items():
                Path(folder, name).write_bytes(content)
            self._network = Network(Path(folder, next(iter(contents))), precision, LATENCY, threads=cpus)
        self._inputs, self._results = inputs, results
        self._readers = ThreadPoolExecutor(_READ_AHEAD)

    def __call__(self, images: pa.Table) -> dict[str, list[int]]:
        """Score a partition and write it."""
        found = list(zip(*(images[name].to_pylist() for name in images.column_names), strict=True))
        read = zip(found, self._read_ahead(found), strict=True)
        scored = [self._scored(name, version, image) for (name, version, _), image in read]
        self._results.write(scored)
        return {"images": [len(scored)], "unreadable": [sum(one.unreadable is not None for one in scored)]}

    def _read_ahead(self, found: list[Found]) -> Iterator[ImageArray | UnreadableImageError]:
        """Read images while the ones before are scored."""
        waiting = iter(found)
        running = deque(self._readers.submit(self._read, *one) for one in islice(waiting, _READ_AHEAD))
        while running:
            done = running.popleft().result()
            running.extend(self._readers.submit(self._read, *one) for one in islice(waiting, 1))
            yield done

    def _read(self, name: str, version: str, number: int) -> ImageArray | UnreadableImageError:
        del version
        place = self._inputs[number]
        try:
            return read_image(replace(place, path=name.removeprefix(place.scheme)).read())
        except UnreadableImageError as error:
            return error
        except OSError as error:
            return UnreadableImageError(f"it cannot be read ({error.strerror or ' '.join(str(error).split())})")

    def _scored(self, name: str, version: str, image: ImageArray | UnreadableImageError) -> Result:
        if isinstance(image, UnreadableImageError):
            return Result(name, version, unreadable=str(image))
        prediction = self._network.predict(self._network.prepare(image))
        if not math.isfinite(prediction.score):
            return Result(name, version, unreadable="the model's score of it is not a number: export the model again")
        return Result(name, version, prediction.score, prediction.is_anomalous)
