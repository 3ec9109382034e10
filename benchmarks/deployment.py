"""Measure the latency of exported models, and the throughput and memory of ``anomalib-stfpm infer``.

This package's Stfpm and anomalib's are exported to OpenVINO, each by its own export, and timed alternately as
``anomalib-stfpm time`` does. Weights are random, which does not change the time. Then ``anomalib-stfpm infer`` scores
JPEG images made from a category in MVTec AD's layout, reading files and writing heat maps and CSV:

    python -m benchmarks.deployment --root images --category screw --images 10000
"""

import argparse
import io
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import anomalib.models
import psutil
import timm
import torch
from anomalib.deploy import CompressionType
from anomalib.models.components import AnomalibModule
from PIL import Image

from anomalib_stfpm.comparison.pretrained import pretrained
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.reproduction import authors_stfpm
from anomalib_stfpm_deploy import files, machine
from anomalib_stfpm_deploy.network import precisions_of_this_machine
from anomalib_stfpm_deploy.timing import Timing, table, time_models

BACKBONE = "resnet18"
INPUT_SIZE = (256, 256)
OURS = ("ours", "ours, INT8")
JPEG_QUALITY = 95

_SECONDS_BETWEEN = 1.0
_SETTLED = 0.2  # share of the images after which memory should stay constant


@dataclass(frozen=True)
class EndToEnd:
    """Throughput and memory of ``infer``.

    Args:
        model: Name and precision of the model.
        images: Number of images.
        seconds: From the start of the process to its end.
        pictures_per_second: Images per second, without the start of the process.
        share_of_network: Throughput relative to that of the network alone in the same precision.
        settled_bytes: Memory after a fifth of the images.
        final_bytes: Memory at the end.
    """

    model: str
    images: int
    seconds: float
    pictures_per_second: float
    share_of_network: float
    settled_bytes: int
    final_bytes: int


def export_all(root: Path, category: str, folder: Path) -> dict[str, Path]:
    """Export this package's model in 32 and in 8 bits, and anomalib's."""
    ours = authors_stfpm(backbone=BACKBONE)  # with the levels of anomalib's
    ours.model.load_teacher(timm.create_model(BACKBONE).state_dict())
    with pretrained(BACKBONE, None):
        theirs = anomalib.models.Stfpm(backbone=BACKBONE, evaluator=False, visualizer=False)
    for model in (ours, theirs):
        set_thresholds(model)
    datamodule = MVTecLayout(root, category, num_workers=0)
    int8: dict[str, Any] = {"compression_type": CompressionType.INT8_PTQ, "datamodule": datamodule}
    return {
        "anomalib's": theirs.to_openvino(
            folder / "anomalibs", input_size=INPUT_SIZE, onnx_kwargs={"opset_version": 18}
        ),
        "ours": ours.to_openvino(folder / "ours"),
        "ours, INT8": ours.to_openvino(folder / "ours_int8", **int8),
    }


def set_thresholds(model: AnomalibModule) -> None:
    """Set thresholds, without which a model is not exported."""
    processor: Any = model.post_processor
    for name in ("_image_threshold", "_pixel_threshold", "image_max", "pixel_max"):
        getattr(processor, name).fill_(1.0)
    for name in ("image_min", "pixel_min"):
        getattr(processor, name).fill_(0.0)
    model.eval()


def write_images(category: Path, number: int, size: int | None, folder: Path) -> None:
    """Write JPEG images from those of a category, repeated as often as needed."""
    folder.mkdir()
    suffixes = Image.registered_extensions()
    sources = sorted(path for path in (category / "test").rglob("*") if path.suffix.lower() in suffixes)
    encoded = []
    for path in sources:
        with Image.open(path) as image, io.BytesIO() as data:
            resized = image.convert("RGB") if size is None else image.convert("RGB").resize((size, size))
            resized.save(data, "JPEG", quality=JPEG_QUALITY)
            encoded.append(data.getvalue())
    for index, content in enumerate(islice(cycle(encoded), number)):
        (folder / f"{index:06}.jpg").write_bytes(content)


def infer(name: str, model: Path, precision: str, images: Path, output: Path, network: float) -> EndToEnd:
    """Run ``infer`` and measure its throughput and memory."""
    number = sum(1 for _ in images.iterdir())
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "infer", "--precision", precision]
    options = ["--model", str(model), "--input", str(images), "--output", str(output)]
    start = time.perf_counter()
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    journal = output / "results.partial.jsonl"
    memory = [(0, watched.memory_info().rss)]
    began = start
    while process.poll() is None:
        if journal.is_file():
            done = journal.read_bytes().count(b"\n") - 1
            if done < 1:
                began = time.perf_counter()
            memory.append((done, watched.memory_info().rss or memory[-1][1]))  # 0 while the process exits
        time.sleep(_SECONDS_BETWEEN if memory[-1][0] > 0 else 0.01)
    end = time.perf_counter()
    if process.returncode != 0:
        msg = f"infer ended with {process.returncode}."
        raise RuntimeError(msg)
    settled = next((used for done, used in memory if done >= _SETTLED * number), memory[-1][1])
    rate = number / (end - began)
    return EndToEnd(name, number, end - start, rate, rate / network, settled, memory[-1][1])


def end_to_end_table(runs: list[EndToEnd]) -> str:
    """Write one row for each run."""
    lines = [
        "| model | images | seconds | images/s | of the network's | memory after a fifth, MB | at the end, MB |",
        "| --- " * 7 + "|",
    ]
    lines += [
        f"| {run.model} | {run.images} | {run.seconds:.1f} | {run.pictures_per_second:.1f} "
        f"| {run.share_of_network:.2f} | {run.settled_bytes / 1e6:.0f} | {run.final_bytes / 1e6:.0f} |"
        for run in runs
    ]
    return "\n".join(lines)


def tables(record: dict[str, Any]) -> list[str]:
    """Write the tables of ``deployment.json`` as Markdown: the timings, and the runs of ``infer``."""
    timings = [Timing(**timing) for timing in record["timings"]]
    runs = [EndToEnd(**run) for run in record["end_to_end"]]
    return [table(timings), *([end_to_end_table(runs)] if runs else [])]


def main() -> None:
    """Run the benchmark, print and write the measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the category")
    parser.add_argument("--category", required=True)
    parser.add_argument("--images", type=int, default=1000, help="number of JPEG images to infer; 0 for none")
    parser.add_argument("--infer", nargs="+", choices=OURS, default=OURS, help="models to infer them with")
    parser.add_argument("--size", type=int, help="height and width of the JPEG images; unchanged by default")
    parser.add_argument("--rounds", type=int, default=100, help="see anomalib-stfpm time")
    parser.add_argument("--seconds", type=float, default=10.0, help="see anomalib-stfpm time")
    parser.add_argument("--output", type=Path, default=Path("results/deployment"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        models = export_all(arguments.root, arguments.category, folder)
        precisions = precisions_of_this_machine()
        timings = time_models(list(models.values()), precisions, arguments.rounds, arguments.seconds)
        names = dict(zip(map(str, models.values()), models, strict=True))
        timings = [replace(timing, model=names[timing.model]) for timing in timings]
        runs: list[EndToEnd] = []
        if arguments.images:
            images = folder / "images"
            write_images(arguments.root / arguments.category, arguments.images, arguments.size, images)
            for name in arguments.infer:
                for timing in (one for one in timings if one.model == name):
                    label = f"{name}, {timing.precision}"
                    output = folder / f"output_{len(runs)}"
                    network = timing.pictures_per_second
                    runs.append(infer(label, models[name], timing.precision, images, output, network))
    record = {
        "machine": machine.describe(),
        "arguments": {name: value for name, value in vars(arguments).items() if name not in ("root", "output")},
        "timings": [asdict(timing) for timing in timings],
        "end_to_end": [asdict(run) for run in runs],
    }
    print("\n\n".join(tables(record)))
    files.write_text(arguments.output / "deployment.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
