"""Score many images in one process, and check for memory leaks and changing scores.

One process reads PNG images and scores them one at a time with an exported model, as ``anomalib-stfpm infer`` does. It
measures memory after a tenth of the images and its maximum after that, open file descriptors and latency, and compares
every score with that of the first pass. Then 8 threads share the model and must give the same scores as one:

    python -m benchmarks.reliability.load --images 100000
"""

import argparse
import json
import multiprocessing
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from anomalib_stfpm_deploy import machine
from anomalib_stfpm_deploy.files import write_text
from anomalib_stfpm_deploy.image import read_image
from anomalib_stfpm_deploy.network import Network, Prediction

DISTINCT = 50
"""Number of different images, which are scored repeatedly."""
THREADS = 8
MOST_GROWTH = 0.02
"""Highest relative growth of memory that is allowed after the first tenth of the images."""

_WARM = 0.1
_BETWEEN = 100  # images, from one reading of the memory to the next
_PASSES_OF_THREADS = 20


@dataclass(frozen=True)
class Load:
    """Measurements of the process.

    Args:
        images: Number of images scored by one thread.
        seconds: Time for all of them.
        warm_bytes: Memory after a tenth of the images.
        highest_bytes: Highest memory after that.
        descriptors_before: Descriptors open after a tenth of the images.
        descriptors_after: Descriptors open at the end.
        median_ms: Median time of an image, from file to score, after the first tenth.
        p99_ms: 99th percentile of that time.
        different: Number of images whose score or label differs from the first pass.
        images_of_threads: Number of images scored by the threads.
        different_in_threads: Number of those whose score, label or map differs from that of one thread.
    """

    images: int
    seconds: float
    warm_bytes: int
    highest_bytes: int
    descriptors_before: int
    descriptors_after: int
    median_ms: float
    p99_ms: float
    different: int
    images_of_threads: int
    different_in_threads: int

    @property
    def growth(self) -> float:
        """Relative growth of memory."""
        return max(0.0, self.highest_bytes / self.warm_bytes - 1)

    @property
    def is_steady(self) -> bool:
        """Whether scores, memory and descriptors stayed the same. Times depend on other processes, and do not count."""
        is_same = self.different == self.different_in_threads == 0
        return is_same and self.growth <= MOST_GROWTH and self.descriptors_after <= self.descriptors_before


def scored(network: Network, path: Path) -> Prediction:
    """Read and score an image."""
    return network.predict(network.prepare(read_image(path)))


def measure(model: Path, paths: list[Path], images: int) -> Load:
    """Score images and measure this process."""
    network, process = Network(model), psutil.Process()
    first = {path: scored(network, path) for path in paths}
    # Ones, because the system allocates the memory of zeros only when they are overwritten.
    milliseconds, different, warm = np.ones(images), 0, int(_WARM * images)
    memory, descriptors = [process.memory_info().rss], process.num_fds()
    start = time.perf_counter()
    for index, path in enumerate(islice(cycle(paths), images)):
        before = time.perf_counter()
        found = scored(network, path)
        milliseconds[index] = 1e3 * (time.perf_counter() - before)
        different += (found.score, found.is_anomalous) != (first[path].score, first[path].is_anomalous)
        if index == warm:
            memory, descriptors = [process.memory_info().rss], process.num_fds()
        elif index % _BETWEEN == 0:
            memory.append(process.memory_info().rss)
    seconds, settled = time.perf_counter() - start, milliseconds[warm:]
    descriptors_after = process.num_fds()
    with ThreadPoolExecutor(THREADS) as pool:
        of_threads = pool.map(lambda path: (path, scored(network, path)), paths * _PASSES_OF_THREADS)
        different_in_threads = sum(not _is_same(found, first[path]) for path, found in of_threads)
    return Load(
        images=images,
        seconds=seconds,
        warm_bytes=memory[0],
        highest_bytes=max(memory),
        descriptors_before=descriptors,
        descriptors_after=descriptors_after,
        median_ms=float(np.median(settled)),
        p99_ms=float(np.quantile(settled, 0.99)),
        different=different,
        images_of_threads=len(paths) * _PASSES_OF_THREADS,
        different_in_threads=different_in_threads,
    )


def _is_same(left: Prediction, right: Prediction) -> bool:
    labels = (left.score, left.is_anomalous) == (right.score, right.is_anomalous)
    return labels and np.array_equal(left.anomaly_map, right.anomaly_map)


def _prepare(folder: Path) -> None:
    """Write images and a model. Runs in its own process, so that the measured one does not import torch."""
    from . import made_up

    made_up.write_images(folder, "part", train=DISTINCT, good=0, bad=0)
    made_up.export(folder)


def main() -> None:
    """Run the benchmark, print and write the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--output", type=Path, default=Path("results/reliability"))
    arguments = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        preparing = multiprocessing.get_context("spawn").Process(target=_prepare, args=(folder,))
        preparing.start()
        preparing.join()
        if preparing.exitcode != 0:
            sys.exit("The model could not be exported.")
        paths = sorted((folder / "part").rglob("*.png"))
        load = measure(folder / "weights" / "openvino" / "model.xml", paths, arguments.images)
    report = {**asdict(load), "growth": load.growth, "environment": machine.describe()}
    write_text(arguments.output / "load.json", json.dumps(report, indent=2) + "\n")
    times = load.p99_ms / load.median_ms
    print(
        f"{load.images} images in {load.seconds:.0f} s: memory {load.warm_bytes / 1e6:.1f} MB after a tenth and "
        f"{load.highest_bytes / 1e6:.1f} MB at the most ({load.growth:+.2%}), {load.descriptors_before} descriptors "
        f"open and {load.descriptors_after} at the end, latency {load.median_ms:.2f} ms, p99 {load.p99_ms:.2f} ms "
        f"({times:.2f} times), {load.different} scores that differ from the first pass.\n"
        f"{THREADS} threads, {load.images_of_threads} images: {load.different_in_threads} differ from one thread's."
    )
    sys.exit(not load.is_steady)


if __name__ == "__main__":
    main()
