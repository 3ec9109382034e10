"""Measure what a Ray cluster adds to ``infer`` and to trainings, and compute what many machines would take.

``infer`` in one process and with one and more workers of a Ray cluster of this machine score the same JPEG images in
turns. The images are made from the demo category brick, and weights are random, which does not change the time. Then
some categories are trained side by side, and jobs that do nothing are run:

    python -m benchmarks.cluster --images 5000 --epochs 20
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pyarrow import parquet

from anomalib_stfpm import Stfpm
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.data.texture_demo import write_category
from anomalib_stfpm_deploy import files, machine
from anomalib_stfpm_deploy.cluster.connection import LOCAL, connected
from anomalib_stfpm_deploy.cluster.jobs import Cluster, outcomes
from anomalib_stfpm_deploy.cluster.partitions import SCORES
from anomalib_stfpm_deploy.cluster.storage import Place, find_images
from anomalib_stfpm_deploy.results import JOURNAL_FILE
from benchmarks.deployment import set_thresholds, write_images

CATEGORY = "brick"
TEACHER: dict[str, Any] = {"backbone": "tf_efficientnet_lite0", "teacher_weights": "package"}
SINGLE = "one process"
IMAGES, CATEGORIES, MACHINES = 10_000_000, 500, (1, 10, 100)

_SECONDS_BETWEEN = 0.05


def export(folder: Path) -> Path:
    """Export a model with random weights of the student."""
    model = Stfpm(**TEACHER, evaluator=False, visualizer=False)
    model.model.load_teacher(teacher_weights.read(TEACHER["backbone"], TEACHER["teacher_weights"]))
    set_thresholds(model)
    return model.to_openvino(folder)


def infer(model: Path, images: Path, output: Path, workers: int | None) -> dict[str, float]:
    """Time ``infer``; return images per second between the first results and the last, and seconds until the first."""
    options = ["--no-pictures"] if workers is None else ["--cluster", LOCAL, "--workers", str(workers)]
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "infer", "--model", str(model), *options]
    start = time.time()
    process = subprocess.Popen(
        [*command, "--input", str(images), "--output", str(output)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    seen: list[tuple[float, int]] = []
    while process.poll() is None:
        if (output / JOURNAL_FILE).is_file():
            with suppress(FileNotFoundError):  # it is removed at the end
                seen.append((time.time(), (output / JOURNAL_FILE).read_bytes().count(b"\n") - 1))
        time.sleep(_SECONDS_BETWEEN)
    if process.returncode != 0:
        msg = f"infer ended with {process.returncode}."
        raise RuntimeError(msg)
    if workers is not None:
        written = sorted((output / SCORES).glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
        counts = accumulate(parquet.read_metadata(path).num_rows for path in written)
        seen = [(path.stat().st_mtime, count) for path, count in zip(written, counts, strict=True)]
    results = [one for one in seen if one[1] > 0]
    (first, few), (last, most) = results[0], results[-1]
    return {"images_per_second": (most - few) / (last - first), "start_seconds": first - start}


def infer_in_turns(
    model: Path, images: Path, folder: Path, contenders: dict[str, int | None], rounds: int
) -> dict[str, Any]:
    """Time each contender in each round; return the medians, and all that was measured."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name, workers in contenders.items():
            runs[name].append(infer(model, images, folder / f"{workers}_{number}", workers))
    return {
        name: {**{part: median(run[part] for run in measured) for part in measured[0]}, "runs": measured}
        for name, measured in runs.items()
    }


def train(root: Path, output: Path, jobs: int, epochs: int) -> float:
    """Train categories side by side with a CPU each; return the seconds."""
    for number in range(jobs):
        shutil.copytree(root / CATEGORY, root / "parts" / f"part_{number}")
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "train-all", "--root", str(root / "parts")]
    options = {"output": output, "cluster": LOCAL, "protocol.max_epochs": epochs, "protocol.train_batch_size": 8}
    options |= {"protocol.accelerator": "cpu", **{f"model.{name}": value for name, value in TEACHER.items()}}
    start = time.perf_counter()
    subprocess.run([*command, *(f"--{name}={value}" for name, value in options.items())], check=True)
    return time.perf_counter() - start


def nothing() -> None:
    """Be a job."""


def run_nothing(number: int, folder: Path) -> dict[str, float]:
    """Run jobs that do nothing; return the seconds until the first is done, and those of each further one."""
    start = time.perf_counter()
    with connected(LOCAL):
        dict(outcomes({0: nothing}, Cluster(LOCAL), folder))
        started = time.perf_counter()
        dict(outcomes(dict.fromkeys(range(number), nothing), Cluster(LOCAL), folder))
        return {"start_seconds": started - start, "seconds_per_job": (time.perf_counter() - started) / number}


def listed_per_second(folder: Path) -> float:
    """Return how many images per second are listed."""
    start = time.perf_counter()
    return sum(1 for _ in find_images([Place.of(str(folder))])) / (time.perf_counter() - start)


def hours(record: dict[str, Any], machines: int) -> tuple[float, float]:
    """Compute the hours for all images and for all categories on some machines like this one.

    Images: the start, the listing by one machine, and the scoring by all. Categories: as many rounds as each machine
    trains with the number of trainings side by side that was measured, and each as long.
    """
    per_machine = record["infer"][f"{record['machine']['cores']} workers"]
    scoring = IMAGES / (machines * per_machine["images_per_second"])
    images = per_machine["start_seconds"] + IMAGES / record["listed_per_second"] + scoring
    rounds = math.ceil(CATEGORIES / (machines * record["arguments"]["trainings"]))
    return images / 3600, rounds * (record["train_seconds"] + record["jobs"]["seconds_per_job"]) / 3600


def tables(record: dict[str, Any]) -> list[str]:
    """Write the measurements and what follows from them as Markdown."""
    single = record["infer"][SINGLE]["images_per_second"]
    measured = ["| `infer` | images/s | lowest | highest | of one process | first results, s |", "| --- " * 6 + "|"]
    for name, one in record["infer"].items():
        rates = [run["images_per_second"] for run in one["runs"]]
        cells = [one["images_per_second"], min(rates), max(rates)]
        figures = [*(f"{rate:.1f}" for rate in cells), f"{cells[0] / single:.2f}", f"{one['start_seconds']:.1f}"]
        measured.append(f"| {' | '.join([name, *figures])} |")
    computed = [f"| machines | {IMAGES / 1e6:.0f} million images, h | {CATEGORIES} categories, h |", "| --- " * 3 + "|"]
    computed += ["| {} | {:.2f} | {:.2f} |".format(machines, *hours(record, machines)) for machines in MACHINES]
    return ["\n".join(measured), "\n".join(computed)]


def main() -> None:
    """Run the benchmark, print and write the measurements."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000, help="number of JPEG images to infer")
    parser.add_argument("--rounds", type=int, default=3, help="how often each contender infers them, in turns")
    parser.add_argument("--epochs", type=int, default=20, help="epochs of a training")
    parser.add_argument("--trainings", type=int, default=cores, help="trainings side by side, with a CPU each")
    parser.add_argument("--jobs", type=int, default=1000, help="number of jobs that do nothing")
    parser.add_argument("--output", type=Path, default=Path("results/cluster"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_category(folder / "images", CATEGORY)
        write_images(folder / "images" / CATEGORY, arguments.images, None, folder / "all")
        contenders: dict[str, int | None] = {SINGLE: None, "1 worker": 1, f"{cores} workers": cores}
        model = export(folder / "model")
        record: dict[str, Any] = {
            "machine": machine.describe((*machine.PACKAGES, "ray")),
            "arguments": {name: value for name, value in vars(arguments).items() if name != "output"},
            "infer": infer_in_turns(model, folder / "all", folder / "found", contenders, arguments.rounds),
            "listed_per_second": listed_per_second(folder / "all"),
            "jobs": run_nothing(arguments.jobs, folder),
        }
        trainings = (folder / "images", folder / "trained", arguments.trainings, arguments.epochs)
        record["train_seconds"] = train(*trainings)
    jobs = record["jobs"]
    print("\n\n".join(tables(record)))
    print(
        f"\n{arguments.trainings} trainings side by side: {record['train_seconds']:.0f} s. "
        f"Ray starts in {jobs['start_seconds']:.1f} s, and a job costs {1e3 * jobs['seconds_per_job']:.1f} ms."
    )
    files.write_text(arguments.output / "cluster.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
