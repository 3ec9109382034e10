"""Score many pictures in one process, and see whether it stays as it was.

A long-lived process reads PNG pictures and scores them with an exported model, as ``anomalib-stfpm infer`` does, one at
a time: its memory after a tenth of them and at its highest from then on, the descriptors that are open, the latency,
and whether every score is the one of the first pass. Then 8 threads share the model, and must find what one has found:

    python -m benchmarks.reliability.load --pictures 100000
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
from anomalib_stfpm_deploy.network import Network, Prediction
from anomalib_stfpm_deploy.picture import read_picture

DISTINCT = 50
"""Number of pictures that are scored again and again."""
THREADS = 8
MOST_GROWTH = 0.02
"""Share by which memory may grow after the first tenth of the pictures."""

_WARM = 0.1
_BETWEEN = 100  # pictures, of looks at the memory
_PASSES_OF_THREADS = 20


@dataclass(frozen=True)
class Load:
    """What was seen.

    Args:
        pictures: Number of pictures scored by one thread.
        seconds: Time that took.
        warm_bytes: Memory after a tenth of the pictures.
        highest_bytes: The most memory after that.
        descriptors_before: Descriptors open after a tenth of the pictures.
        descriptors_after: Descriptors open at the end.
        median_ms: Median time of a picture, from file to score, after the first tenth.
        p99_ms: Time that 99 of 100 pictures took at most.
        different: Number of scores or labels that were not those of the first pass.
        pictures_of_threads: Number of pictures that the threads scored.
        different_in_threads: Number of their scores, labels or maps that were not those of one thread.
    """

    pictures: int
    seconds: float
    warm_bytes: int
    highest_bytes: int
    descriptors_before: int
    descriptors_after: int
    median_ms: float
    p99_ms: float
    different: int
    pictures_of_threads: int
    different_in_threads: int

    @property
    def growth(self) -> float:
        """Share by which memory grew."""
        return max(0.0, self.highest_bytes / self.warm_bytes - 1)

    @property
    def is_steady(self) -> bool:
        """Whether nothing but time, which other work of the machine takes too, is other than it should be."""
        is_same = self.different == self.different_in_threads == 0
        return is_same and self.growth <= MOST_GROWTH and self.descriptors_after <= self.descriptors_before


def scored(network: Network, path: Path) -> Prediction:
    """Read and score a picture.

    Args:
        network: The model.
        path: The picture.

    Returns:
        What the model says of it.
    """
    return network.predict(network.prepare(read_picture(path)))


def measure(model: Path, paths: list[Path], pictures: int) -> Load:
    """Score pictures, and look at this process.

    Args:
        model: The exported model.
        paths: The pictures, which are scored again and again.
        pictures: How many to score.

    Returns:
        What was seen.
    """
    network, process = Network(model), psutil.Process()
    first = {path: scored(network, path) for path in paths}
    # Of ones, for zeros take memory only when they are replaced.
    milliseconds, different, warm = np.ones(pictures), 0, int(_WARM * pictures)
    memory, descriptors = [process.memory_info().rss], process.num_fds()
    start = time.perf_counter()
    for index, path in enumerate(islice(cycle(paths), pictures)):
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
        pictures=pictures,
        seconds=seconds,
        warm_bytes=memory[0],
        highest_bytes=max(memory),
        descriptors_before=descriptors,
        descriptors_after=descriptors_after,
        median_ms=float(np.median(settled)),
        p99_ms=float(np.quantile(settled, 0.99)),
        different=different,
        pictures_of_threads=len(paths) * _PASSES_OF_THREADS,
        different_in_threads=different_in_threads,
    )


def _is_same(left: Prediction, right: Prediction) -> bool:
    labels = (left.score, left.is_anomalous) == (right.score, right.is_anomalous)
    return labels and np.array_equal(left.anomaly_map, right.anomaly_map)


def _prepare(folder: Path) -> None:
    """Write pictures and a model: in a process of its own, for this one is to be without torch."""
    from . import made_up

    made_up.write_pictures(folder, "part", train=DISTINCT, good=0, bad=0)
    made_up.export(folder)


def main() -> None:
    """Make pictures and model, score, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
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
        load = measure(folder / "weights" / "openvino" / "model.xml", paths, arguments.pictures)
    report = {**asdict(load), "growth": load.growth, "environment": machine.describe()}
    write_text(arguments.output / "load.json", json.dumps(report, indent=2) + "\n")
    times = load.p99_ms / load.median_ms
    print(
        f"{load.pictures} pictures in {load.seconds:.0f} s: memory {load.warm_bytes / 1e6:.1f} MB after a tenth and "
        f"{load.highest_bytes / 1e6:.1f} MB at the most ({load.growth:+.2%}), {load.descriptors_before} descriptors "
        f"open and {load.descriptors_after} at the end, latency {load.median_ms:.2f} ms, p99 {load.p99_ms:.2f} ms "
        f"({times:.2f} times), {load.different} scores that differ from the first pass.\n"
        f"{THREADS} threads, {load.pictures_of_threads} pictures: {load.different_in_threads} differ from one thread's."
    )
    sys.exit(not load.is_steady)


if __name__ == "__main__":
    main()
