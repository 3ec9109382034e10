"""``anomalib-stfpm time``: measure the speed and memory of exported models on this CPU.

``python -m anomalib_stfpm_deploy.timing model.xml f32`` loads one model and prints as JSON what that takes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from . import files, machine
from .cli import Parser
from .image import Pixels
from .network import LATENCY, PRECISIONS, THROUGHPUT, Network, model_files, precisions_of_this_machine

_DEFAULT_SIZE = (256, 256)  # for models that take images of any size
_WARM_UP = 20
_IMAGES_PER_ROUND = 10
_IMAGES_BEFORE_MEMORY = 20  # until the memory no longer grows
_THROUGHPUT_ROUNDS = 5


@dataclass(frozen=True)
class Timing:
    """Speed and memory of a model in one precision.

    Args:
        model: Its file.
        precision: Floating-point precision.
        is_quantized: Whether some layers compute in INT8.
        median_ms: Median latency of an image, one at a time, in milliseconds.
        p95_ms: 95th percentile of the latency.
        p99_ms: 99th percentile of the latency.
        pictures_per_second: Throughput with as many images at once as keep the CPU busy.
        size_bytes: Size of the model's files.
        load_seconds: Time to read and compile it, in a process of its own.
        first_ms: Time of the first image after that.
        resident_bytes: Memory of that process after some images; ``None`` where ``/proc`` is missing.
    """

    model: str
    precision: str
    is_quantized: bool
    median_ms: float
    p95_ms: float
    p99_ms: float
    pictures_per_second: float
    size_bytes: int
    load_seconds: float
    first_ms: float
    resident_bytes: int | None


def parser() -> argparse.ArgumentParser:
    """Make the parser of the verb."""
    made = Parser(
        prog="anomalib-stfpm time",
        description="Time exported models on this CPU alternately, and print their latency relative to the first. "
        "Only the network is timed, on one image of noise.",
    )
    made.add_argument("--model", type=Path, nargs="+", required=True, help=".xml or .onnx files of exported models")
    made.add_argument(
        "--precision",
        choices=PRECISIONS,
        nargs="+",
        help="floating-point precisions; by default all that the CPU supports",
    )
    made.add_argument("--rounds", type=int, default=30, help=f"rounds of {_IMAGES_PER_ROUND} images for each model")
    made.add_argument("--seconds", type=float, default=5.0, help="how long to measure the throughput of each model")
    made.add_argument("--output", type=Path, help="JSON file to write")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit code.

    Raises:
        OSError: If a file of a model is missing, or the output cannot be written.
        ValueError: If a model is not one, or an argument is not valid.
    """
    given = parser().parse_args(arguments)
    if given.rounds < 1 or not 0 < given.seconds < float("inf"):
        msg = f"--rounds and --seconds must be positive: got {given.rounds} and {given.seconds}."
        raise ValueError(msg)
    timings = time_models(given.model, given.precision or precisions_of_this_machine(), given.rounds, given.seconds)
    print(table(timings))
    if given.output is not None:
        record = {"machine": machine.describe(), "timings": [asdict(timing) for timing in timings]}
        files.write_text(given.output, json.dumps(record, indent=2) + "\n")
    return 0


def time_models(
    models: Sequence[Path], precisions: Sequence[str], rounds: int = 30, seconds: float = 5.0
) -> list[Timing]:
    """Time models alternately, each in each precision, so that they share the same machine load."""
    both = [(model, precision) for model in models for precision in precisions]
    networks = [Network(model, precision, LATENCY) for model, precision in both]
    milliseconds = latencies(networks, rounds)
    throughputs = _throughputs([Network(model, precision, THROUGHPUT) for model, precision in both], seconds)
    timings = []
    for network, times, throughput in zip(networks, milliseconds, throughputs, strict=True):
        median, p95, p99 = (float(np.percentile(times, share)) for share in (50, 95, 99))
        timings.append(
            Timing(
                model=str(network.path),
                precision=network.precision,
                is_quantized=network.is_quantized,
                median_ms=median,
                p95_ms=p95,
                p99_ms=p99,
                pictures_per_second=throughput,
                size_bytes=sum(part.stat().st_size for part in model_files(network.path)),
                **_measure_loading(network.path, network.precision),
            )
        )
    return timings


def table(timings: Sequence[Timing]) -> str:
    """Format timings as a Markdown table."""
    columns = "model | precision | median, ms | of the first | p95 | p99 | images/s | size, MB | load, s | first, ms"
    lines = [f"| {columns} | memory, MB |", "| --- " * 11 + "|"]
    for timing in timings:
        memory = "" if timing.resident_bytes is None else f"{timing.resident_bytes / 1e6:.0f}"
        lines.append(
            f"| {timing.model} | {'INT8 and ' if timing.is_quantized else ''}{timing.precision} "
            f"| {timing.median_ms:.2f} | {timing.median_ms / timings[0].median_ms:.3f} | {timing.p95_ms:.2f} "
            f"| {timing.p99_ms:.2f} | {timing.pictures_per_second:.1f} | {timing.size_bytes / 1e6:.1f} "
            f"| {timing.load_seconds:.2f} | {timing.first_ms:.1f} | {memory} |"
        )
    return "\n".join(lines)


def latencies(networks: Sequence[Network], rounds: int) -> list[list[float]]:
    """Time networks alternately, one image at a time; return the milliseconds of each image, by network."""
    inputs = [_noise(network) for network in networks]
    requests = [network.compiled.create_infer_request() for network in networks]
    times: list[list[float]] = [[] for _ in networks]
    for number in range(rounds + 1):  # the first round is the warm-up
        for request, image, milliseconds in zip(requests, inputs, times, strict=True):
            for _ in range(_IMAGES_PER_ROUND if number else _WARM_UP):
                start = time.perf_counter()
                request.infer({0: image}, share_inputs=True)
                if number:
                    milliseconds.append(1e3 * (time.perf_counter() - start))
    return times


def _throughputs(networks: Sequence[Network], seconds: float) -> list[float]:
    done, spent = [0] * len(networks), [0.0] * len(networks)
    queues = [openvino.AsyncInferQueue(network.compiled, network.requests) for network in networks]
    for number in range(_THROUGHPUT_ROUNDS + 1):  # the first round is the warm-up
        for index, (network, queue) in enumerate(zip(networks, queues, strict=True)):
            images, elapsed = _keep_busy(queue, _noise(network), seconds / _THROUGHPUT_ROUNDS)
            if number:
                done[index] += images
                spent[index] += elapsed
    return [images / elapsed for images, elapsed in zip(done, spent, strict=True)]


def _keep_busy(queue: openvino.AsyncInferQueue, image: Pixels, seconds: float) -> tuple[int, float]:
    start = time.perf_counter()
    images = 0
    while time.perf_counter() - start < seconds:
        queue.start_async({0: image})
        images += 1
    queue.wait_all()
    return images, time.perf_counter() - start


def _noise(network: Network) -> Pixels:
    height, width = network.input_size or _DEFAULT_SIZE
    return np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)


def _measure_loading(path: Path, precision: str) -> dict[str, Any]:
    """Load a model in a new process, where no other model is in memory."""
    command = [sys.executable, "-m", "anomalib_stfpm_deploy.timing", str(path), precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured


def _print_loading(path: Path, precision: str) -> None:
    start = time.perf_counter()
    network = Network(path, precision)
    loaded = time.perf_counter()
    request, image = network.compiled.create_infer_request(), _noise(network)
    before = time.perf_counter()
    request.infer({0: image})
    first = time.perf_counter() - before
    for _ in range(_IMAGES_BEFORE_MEMORY):
        request.infer({0: image})
    figures = {"load_seconds": loaded - start, "first_ms": 1e3 * first, "resident_bytes": machine.resident_bytes()}
    print(json.dumps(figures))


if __name__ == "__main__":
    _print_loading(Path(sys.argv[1]), sys.argv[2])
