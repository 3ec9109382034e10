"""``anomalib-stfpm time``: how fast exported models are on this CPU, side by side."""

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
from .arguments import Parser
from .network import LATENCY, PRECISIONS, THROUGHPUT, Network, files_of, precisions_of_this_machine
from .resize import Pixels

OPEN_SIZE = (256, 256)
"""Height and width of the picture for models that take any."""

_WARM_UP = 20
_IN_A_ROW = 10


@dataclass(frozen=True)
class Timing:
    """How fast a model is in a precision.

    Args:
        model: Its file.
        precision: What floating point is computed in.
        is_quantized: Whether it computes in 8 bits too.
        median_ms: Median latency of a picture, one at a time, in milliseconds.
        p95_ms: Latency that 95 % of the pictures stay below.
        p99_ms: Latency that 99 % of the pictures stay below.
        pictures_per_second: Throughput with as many pictures at once as keep the CPU busy.
        size_bytes: Size of the model's files.
        load_seconds: Time to read and compile it, in a process of its own.
        first_ms: Time of the first picture after that.
        resident_bytes: Memory of that process after some pictures; ``None`` where the system does not say.
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
    """Make the parser.

    Returns:
        A parser of the verb's arguments.
    """
    made = Parser(
        prog="anomalib-stfpm time",
        description="Time exported models on this CPU, all in turns, and print how many times the latency of the first "
        "each takes. The network alone is timed, on one picture of noise.",
    )
    made.add_argument("--model", type=Path, nargs="+", required=True, help=".xml or .onnx files of exported models")
    made.add_argument(
        "--precision",
        choices=PRECISIONS,
        nargs="+",
        help="what floating point is computed in; all the CPU has, by default",
    )
    made.add_argument("--rounds", type=int, default=30, help=f"turns of {_IN_A_ROW} pictures for each model")
    made.add_argument("--seconds", type=float, default=5.0, help="how long the throughput of each model is measured")
    made.add_argument("--output", type=Path, help="JSON file to write")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb.

    Args:
        arguments: What the command line says after the verb.

    Returns:
        The exit code.

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
    """Time models in turns.

    Args:
        models: Their files.
        precisions: What floating point is computed in, each for every model.
        rounds: Number of turns that each gets for its latency.
        seconds: How long the throughput of each is measured.

    Returns:
        A timing for each model in each precision.

    Raises:
        FileNotFoundError: If a file of a model is missing.
        ValueError: If a model is not one, or the CPU lacks a precision.
    """
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
                size_bytes=sum(part.stat().st_size for part in files_of(network.path)),
                **_in_a_process_of_its_own(network.path, network.precision),
            )
        )
    return timings


def table(timings: Sequence[Timing]) -> str:
    """Write timings as Markdown.

    Args:
        timings: The timings.

    Returns:
        A row for each, with its latency as a multiple of the first's.
    """
    names = _short([timing.model for timing in timings])
    columns = "model | precision | median, ms | of the first | p95 | p99 | pictures/s | size, MB | load, s | first, ms"
    lines = [f"| {columns} | memory, MB |", "| --- " * 11 + "|"]
    for name, timing in zip(names, timings, strict=True):
        memory = "" if timing.resident_bytes is None else f"{timing.resident_bytes / 1e6:.0f}"
        lines.append(
            f"| {name} | {'INT8 and ' if timing.is_quantized else ''}{timing.precision} | {timing.median_ms:.2f} "
            f"| {timing.median_ms / timings[0].median_ms:.3f} | {timing.p95_ms:.2f} | {timing.p99_ms:.2f} "
            f"| {timing.pictures_per_second:.1f} | {timing.size_bytes / 1e6:.1f} | {timing.load_seconds:.2f} "
            f"| {timing.first_ms:.1f} | {memory} |"
        )
    return "\n".join(lines)


def _short(paths: Sequence[str]) -> list[str]:
    """Leave out the folders that all paths share."""
    parts = [Path(path).parts for path in paths]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return [Path(*part[shared:]).as_posix() for part in parts]


def latencies(networks: Sequence[Network], rounds: int) -> list[list[float]]:
    """Time networks in turns, one picture at a time.

    Args:
        networks: The networks.
        rounds: Number of turns that each gets, after one that does not count.

    Returns:
        For each network, the milliseconds that every picture took.
    """
    inputs = [noise(network) for network in networks]
    requests = [network.compiled.create_infer_request() for network in networks]
    times: list[list[float]] = [[] for _ in networks]
    for turn in range(rounds + 1):
        for request, picture, milliseconds in zip(requests, inputs, times, strict=True):
            for _ in range(_IN_A_ROW if turn else _WARM_UP):
                start = time.perf_counter()
                request.infer({0: picture}, share_inputs=True)
                if turn:
                    milliseconds.append(1e3 * (time.perf_counter() - start))
    return times


def _throughputs(networks: Sequence[Network], seconds: float, turns: int = 5) -> list[float]:
    done, spent = [0] * len(networks), [0.0] * len(networks)
    queues = [openvino.AsyncInferQueue(network.compiled, network.requests) for network in networks]
    for turn in range(turns + 1):  # the first does not count
        for index, (network, queue) in enumerate(zip(networks, queues, strict=True)):
            number, elapsed = _keep_busy(queue, noise(network), seconds / turns)
            if turn:
                done[index] += number
                spent[index] += elapsed
    return [number / elapsed for number, elapsed in zip(done, spent, strict=True)]


def _keep_busy(queue: openvino.AsyncInferQueue, picture: Pixels, seconds: float) -> tuple[int, float]:
    start = time.perf_counter()
    number = 0
    while time.perf_counter() - start < seconds:
        queue.start_async({0: picture})
        number += 1
    queue.wait_all()
    return number, time.perf_counter() - start


def noise(network: Network) -> Pixels:
    """Make a picture of noise that a model takes.

    Args:
        network: The model.

    Returns:
        It, of shape ``(1, 3, H, W)``.
    """
    height, width = network.input_size or OPEN_SIZE
    return np.random.default_rng(0).random((1, 3, height, width), dtype=np.float32)


def _in_a_process_of_its_own(path: Path, precision: str) -> dict[str, Any]:
    """Load a model where nothing has been loaded before."""
    command = [sys.executable, "-m", "anomalib_stfpm_deploy.load", str(path), precision]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    return measured
