"""Compare the training time of this package's Stfpm, of anomalib's and of a plain training loop.

All train a ResNet-18 on the same images, each in its own process. They alternate epoch by epoch, so that other load on
the machine affects all alike. Weights are random, which does not change the time. Example with 300 images of
1024 x 1024, made from a category in MVTec AD's layout, or from drawn bricks if none is given:

    python -m benchmarks.training --root datasets/MVTecAD --category screw --images 300 --size 1024 --epochs 20
    python -m benchmarks.training --accelerator gpu --images 300 --size 1024 --epochs 20

The first pass is what happens before the first epoch. One of the later epochs is profiled: on a GPU, the device is busy
while a kernel or a copy runs. On a CPU, it is busy as far as its cores work for the process.

``--grow`` trains only ``bf16`` instead: with the first number of images in every size, and with every number of images
in the first size, each with a cache budget for half of them and with the one given, which should hold all.
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import anomalib.models
import lightning.pytorch as pl
import timm
import torch
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch.callbacks import Callback
from PIL import Image, ImageOps
from torch.nn.functional import interpolate, normalize
from torch.profiler import ProfilerActivity, profile
from torchvision.transforms.v2.functional import resize

from anomalib_stfpm import Stfpm
from anomalib_stfpm.comparison.pretrained import pretrained
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.data.texture_demo import write_category
from anomalib_stfpm.reproduction import authors_stfpm
from anomalib_stfpm.results import environment
from anomalib_stfpm_deploy.files import write_text

BACKBONE = "resnet18"
INPUT_SIZE = (256, 256)
BATCH_SIZE = 32
TEST_SHARE = 0.5  # test images, half of them defective, for each training image, as in MVTec AD's screw

PROFILED = 2  # the third epoch, when all is warm


class Turn(Protocol):
    """What a contender calls after its first pass, and between two epochs."""

    def __call__(self, *, first_pass: bool = False) -> None:
        """Wait."""


@dataclass
class Settings:
    """Data and settings that all contenders share."""

    images: str
    epochs: int
    validation: str
    num_workers: int
    cache_budget: str
    accelerator: str

    @property
    def device(self) -> torch.device:
        """The device to train on."""
        return torch.device("cuda" if self.accelerator == "gpu" else "cpu")

    def datamodule(self) -> MVTecLayout:
        """Make the datamodule."""
        return MVTecLayout(
            root=Path(self.images).parent,
            category=Path(self.images).name,
            train_batch_size=BATCH_SIZE,
            eval_batch_size=BATCH_SIZE,
            num_workers=self.num_workers,
            val_split_mode=self.validation,
            val_split_ratio=0.2,
            seed=0,
        )


class Turns(Callback):
    """Wait for the turn before every epoch but the first."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the first pass."""
        del trainer, pl_module
        self._turn(first_pass=True)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Wait."""
        del pl_module
        if trainer.current_epoch > 0:
            self._turn()


def default(settings: Settings, turn: Turn) -> None:
    """Train this package's Stfpm with its defaults, in float32."""
    fit(ours(settings), settings, turn)


def bf16(settings: Settings, turn: Turn) -> None:
    """Train it in 16 bits, as configs/fast_cpu.yaml says."""
    fit(ours(settings), settings, turn, precision="bf16-mixed")


def not_remembering(settings: Settings, turn: Turn) -> None:
    """Train this package's Stfpm without its cache."""
    fit(ours(replace(settings, cache_budget="0")), settings, turn)


def anomalibs(settings: Settings, turn: Turn) -> None:
    """Train anomalib's Stfpm."""
    with pretrained(BACKBONE, None):
        model = anomalib.models.Stfpm(backbone=BACKBONE, evaluator=False, visualizer=False)
    fit(model, settings, turn)


def plain(settings: Settings, turn: Turn) -> None:
    """Train as the paper describes it, with all images in memory."""
    datamodule = settings.datamodule()
    datamodule.setup()
    train, held_out = (
        torch.stack([_read(path) for path in data.samples["image_path"]]).to(settings.device)
        for data in (datamodule.train_data, datamodule.val_data)
    )
    teacher, student = (
        timm.create_model(BACKBONE, features_only=True, out_indices=(1, 2, 3)).to(settings.device) for _ in range(2)
    )
    teacher.eval().requires_grad_(False)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4)
    best = float("inf")
    turn(first_pass=True)
    for epoch in range(settings.epochs):
        if epoch > 0:
            turn()
        student.train()
        for batch in torch.split(torch.randperm(len(train)), BATCH_SIZE):
            loss = torch.stack([0.5 * d.mean() for d in _distances(teacher, student, train[batch])]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        student.eval()
        with torch.no_grad():
            maps = [_map(_distances(teacher, student, images)) for images in torch.split(held_out, BATCH_SIZE)]
        error = float(torch.cat(maps).mean())
        if error < best:
            best, _ = error, {key: value.clone() for key, value in student.state_dict().items()}


CONTENDERS = {c.__name__: c for c in (default, bf16, anomalibs, plain, not_remembering)}


def ours(settings: Settings) -> Stfpm:
    """Make this package's model with the levels and the loss of anomalib's, and a random teacher."""
    model = authors_stfpm(backbone=BACKBONE, cache_budget=settings.cache_budget)
    model.model.teacher_is_loaded.fill_(True)
    return model


def fit(model: AnomalibModule, settings: Settings, turn: Turn, precision: str = "32-true") -> None:
    """Train a model with anomalib's Engine."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            accelerator=settings.accelerator, devices=1, max_epochs=settings.epochs, precision=precision,
            callbacks=[Turns(turn)], default_root_dir=folder, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        engine.fit(model, datamodule=settings.datamodule())


def _read(path: str) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    image: Any = read_image(path, as_tensor=True)
    resized: torch.Tensor = resize(image, list(INPUT_SIZE), antialias=True).as_subclass(torch.Tensor)
    return (resized - mean) / std


def _distances(teacher: Any, student: Any, images: torch.Tensor) -> list[torch.Tensor]:  # noqa: ANN401
    with torch.no_grad():
        expected = teacher(images)
    return [
        (normalize(left) - normalize(right)).square().sum(1)
        for left, right in zip(expected, student(images), strict=True)
    ]


def _map(distances: list[torch.Tensor]) -> torch.Tensor:
    product = torch.ones(1, device=distances[0].device)
    for distance in distances:
        product = product * interpolate(distance.unsqueeze(1), size=64, mode="bilinear")
    return interpolate(product, size=INPUT_SIZE, mode="bilinear")


def make_images(category: Path, folder: Path, images: int, size: int) -> Path:
    """Make images from real ones: resized, and flipped once the real ones are used up."""
    target = folder / f"{category.name}_{images}x{size}"
    if not target.is_dir():
        temporary = folder / f".{target.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        each = round(images * TEST_SHARE / 2)
        bad = [path for path in _files(category / "test") if path.parent.name != "good"]
        _write(_files(category / "train" / "good"), temporary / "train" / "good", images, size)
        _write(_files(category / "test" / "good"), temporary / "test" / "good", each, size)
        _write(bad, temporary / "test" / "bad", each, size)
        masks = [next((category / "ground_truth" / p.parent.name).glob(f"{p.stem}*"), None) for p in bad]
        if all(masks):
            _write([mask for mask in masks if mask], temporary / "ground_truth" / "bad", each, size, mode="L")
        temporary.rename(target)
    return target


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _write(sources: list[Path], folder: Path, count: int, size: int, mode: str = "RGB") -> None:
    folder.mkdir(parents=True)
    changes = [lambda image: image, ImageOps.mirror, ImageOps.flip]
    rounds: Iterator[tuple[Path, Any]] = cycle((path, change) for change in changes for path in sources)
    resample = Image.Resampling.NEAREST if mode == "L" else Image.Resampling.BICUBIC
    for index in range(count):
        path, change = next(rounds)
        with Image.open(path) as image:
            change(image.convert(mode).resize((size, size), resample)).save(folder / f"{index:05}.png")


class Busy:
    """The share of time in which a device is busy."""

    def __init__(self, device: torch.device) -> None:
        self._profiler = profile(activities=[ProfilerActivity.CUDA]) if device.type == "cuda" else None
        if self._profiler is not None:
            self._profiler.start()
        self._start, self._worked = time.perf_counter(), time.process_time()

    def stop(self) -> float:
        """Return the share since the start."""
        passed = time.perf_counter() - self._start
        if self._profiler is None:
            return (time.process_time() - self._worked) / passed / torch.get_num_threads()
        self._profiler.stop()
        events: Any = self._profiler.events()  # type: ignore[no-untyped-call]
        ranges = [each.time_range for each in events if each.device_type.name == "CUDA"]
        busy = end = 0.0
        for each in sorted(ranges, key=lambda each: each.start):  # microseconds
            busy += max(0.0, each.end - max(each.start, end))
            end = max(end, each.end)
        return busy / 1e6 / passed


def _compete(name: str, settings: Settings, connection: Connection, start_method: str) -> None:
    """Train in this process: wait for each turn, and send the seconds it took."""
    multiprocessing.set_start_method(start_method, force=True)  # or the workers of dataloaders would be spawned too
    is_on_gpu = settings.device.type == "cuda"
    if is_on_gpu:
        torch.zeros(1, device=settings.device)  # starting CUDA takes seconds
    turns: list[float] = []
    measured: dict[str, float] = {}
    busy: Busy | None = None
    connection.send("ready")
    connection.recv()
    start = time.perf_counter()

    def turn(*, first_pass: bool = False) -> None:
        nonlocal start, busy
        if is_on_gpu:
            torch.cuda.synchronize()
        if first_pass:
            measured["first_pass_seconds"] = time.perf_counter() - start
            return
        turns.append(time.perf_counter() - start)
        if busy is not None:
            measured["busy"], busy = busy.stop(), None
        connection.send(turns[-1])
        connection.recv()
        if len(turns) == min(PROFILED, settings.epochs - 1):
            busy = Busy(settings.device)
        start = time.perf_counter()

    CONTENDERS[name](settings, turn)
    if is_on_gpu:
        torch.cuda.synchronize()
    turns.append(time.perf_counter() - start)
    if busy is not None:
        measured["busy"] = busy.stop()
    memory = {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    if is_on_gpu:
        memory["peak_bytes_of_device"] = torch.cuda.max_memory_allocated()
    connection.send({"seconds_per_epoch": turns, **measured, **memory})


def run(names: list[str], settings: Settings) -> dict[str, dict[str, Any]]:
    """Train all contenders, alternating epoch by epoch, and return their measurements."""
    start_method = multiprocessing.get_start_method()
    context = multiprocessing.get_context("spawn")
    connections = {}
    for name in names:
        here, there = context.Pipe()
        context.Process(target=_compete, args=(name, settings, there, start_method)).start()
        there.close()
        here.recv()
        connections[name] = here
    results: dict[str, dict[str, Any]] = {}
    while len(results) < len(names):
        for name in names:
            if name not in results:
                connections[name].send("go")
                answer = connections[name].recv()
                if isinstance(answer, dict):
                    results[name] = answer
                else:
                    print(f"{name}: {answer:.1f} s", flush=True)
    trained = len(_files(Path(settings.images) / "train"))
    trained = trained if settings.validation != "from_train" else round(0.8 * trained)
    for result in results.values():
        later = result["seconds_per_epoch"][1:] or result["seconds_per_epoch"]
        result["fit_seconds"] = sum(result["seconds_per_epoch"])
        result["later_epoch_seconds"] = statistics.median(later)
        result["images_per_second"] = trained / result["later_epoch_seconds"]
    return results


def table(results: dict[str, dict[str, Any]]) -> str:
    """Write a row for each contender, with its speed relative to anomalib's Stfpm and to the plain loop."""
    lines = [
        "| | whole fit, s | first pass, s | later epochs, s | images/s | busy | peak, GB "
        "| anomalib's epochs | anomalib's | plain loop |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, result in results.items():
        ratios = [
            f"{results[peer][what] / result[what]:.2f}" if peer in results else ""
            for peer, what in (
                ("anomalibs", "later_epoch_seconds"), ("anomalibs", "fit_seconds"), ("plain", "fit_seconds"),
            )
        ]  # fmt: skip
        peak = result.get("peak_bytes_of_device", result["peak_bytes"])
        lines.append(
            f"| {name} | {result['fit_seconds']:.1f} | {result['first_pass_seconds']:.1f} "
            f"| {result['later_epoch_seconds']:.3g} | {result['images_per_second']:.1f} "
            f"| {100 * result['busy']:.0f} % | {peak / 1e9:.2f} | {' | '.join(ratios)} |"
        )
    return "\n".join(lines)


def growth_table(runs: dict[str, Any]) -> str:
    """Write a row for each number and size of images and each budget of ``--grow``."""
    lines = [
        "| | first pass, s | later epochs, s | ms an image | peak, GB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for title, run in runs.items():
        (result,) = run["results"].values()
        lines.append(
            f"| {title} | {result['first_pass_seconds']:.1f} | {result['later_epoch_seconds']:.1f} "
            f"| {1000 / result['images_per_second']:.1f} | {result['peak_bytes'] / 1e9:.2f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark, print and write the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder that holds the category; without it, bricks are drawn")
    parser.add_argument("--category", default="brick")
    parser.add_argument("--accelerator", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--images", nargs="+", type=int, default=[300], help="several with --grow")
    parser.add_argument("--size", nargs="+", type=int, default=[1024], help="several with --grow")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--validation", choices=["same_as_test", "from_train"], default="same_as_test")
    parser.add_argument("--num-workers", type=int, default=8, help="anomalib's default")
    parser.add_argument("--cache-budget", default="1GB")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS)[:4])
    parser.add_argument("--grow", action="store_true", help="see above")
    parser.add_argument("--output", type=Path, default=Path("results/training"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)

    category = (
        write_category(arguments.output, "brick") if arguments.root is None else arguments.root / arguments.category
    )
    results: dict[str, Any] = {}
    sizes = [(arguments.images[0], size) for size in arguments.size]
    numbers = [(images, arguments.size[0]) for images in arguments.images]
    for images, size in dict.fromkeys([*sizes, *numbers]):
        folder = make_images(category, arguments.output, images, size)
        settings = Settings(
            str(folder), arguments.epochs, arguments.validation, arguments.num_workers, arguments.cache_budget,
            arguments.accelerator,
        )  # fmt: skip
        cases = {"": settings}
        if arguments.grow:
            half = round(images * 0.5 * 1.8e6)  # image, mask and features at 256 x 256
            cases = {"all in memory": settings, "half in memory": replace(settings, cache_budget=str(half))}
        for case, chosen in cases.items():
            result = run(["bf16"] if arguments.grow else arguments.contenders, chosen)
            title = f"{images} images of {size} x {size}" + (f", {case}" if case else "")
            results[title] = {"settings": asdict(chosen), "results": result}
            print(f"\n{title}, {arguments.epochs} epochs\n\n{table(result)}", flush=True)
    if arguments.grow:
        print(f"\n{growth_table(results)}")
    for result in results.values():
        result["settings"]["images"] = Path(result["settings"]["images"]).name
    name = "growth" if arguments.grow else f"training_{arguments.validation}"
    device = torch.cuda.get_device_name() if arguments.accelerator == "gpu" else None
    name += "" if device is None else "_gpu"
    report = {"environment": {**environment.describe(), "gpu": device}, "runs": results}
    write_text(arguments.output / f"{name}.json", json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
