"""Train recipes on categories with several seeds and print a table a category: mean and spread over the seeds.

All see the same images with the same seeds, a fifth of the normal ones held out: this package's recipes keep the
student that errs least on them, and the test images steer nothing. Example, on categories in MVTec AD's layout:

    python -m benchmarks.quality --root images --categories screw --variants original default --epochs 60

``brick``, ``grass`` and ``gravel`` are the demo categories, and need not be in the root. Interrupted, the same command
goes on where it was; without ``--variants`` it prints what is there. ``--latency`` times all trained models as OpenVINO
runs them.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from anomalib.models.components import AnomalibModule

from anomalib_stfpm.data import texture_demo
from anomalib_stfpm.reproduction import Protocol, report, reproduce
from anomalib_stfpm.reproduction.run import STUDENT_CHECKPOINT
from anomalib_stfpm_deploy import files

from .tables import Runs, table
from .variants import VARIANTS


def train(name: str, make: Callable[[], AnomalibModule], category: str, arguments: argparse.Namespace) -> None:
    """Train and test a variant on a category with all seeds, except what is done already."""
    root = arguments.root
    if category in texture_demo.CATEGORIES:
        root = arguments.output / "demo"
        texture_demo.write_category(root, category)
    reproduce(
        make,
        Protocol(
            max_epochs=arguments.epochs,
            train_batch_size=VARIANTS[name].train_batch_size,
            accelerator=arguments.accelerator,
        ),
        root,
        folder_of(name, category, arguments),
        [category],
        arguments.seeds,
    )


def folder_of(name: str, category: str, arguments: argparse.Namespace) -> Path:
    """Folder with the runs of a variant on a category."""
    folder: Path = arguments.output / f"{arguments.epochs}_epochs" / category / name.replace(" ", "_")
    return folder


def _runs(folder: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((folder / report.RESULTS_FILE).read_text(encoding="utf-8"))["runs"]
    return runs


def _checkpoint(folder: Path) -> Path:
    """The trained model of the first seed."""
    return min(folder.rglob(STUDENT_CHECKPOINT))


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the categories")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument(
        "--variants", nargs="*", choices=VARIANTS, default=[], metavar="VARIANT", help="; ".join(VARIANTS)
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--accelerator", default="auto", help="Lightning's accelerator: auto, cpu, gpu, ...")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--teacher-weights", default="package", help="hub, package or a file")
    parser.add_argument("--latency", action="store_true", help="see above")
    parser.add_argument("--output", type=Path, default=Path("results/quality"))
    arguments = parser.parse_args()

    make = {name: partial(variant, arguments.backbone, arguments.teacher_weights) for name, variant in VARIANTS.items()}
    record: dict[str, Any] = {}
    for category in arguments.categories:
        for name in arguments.variants:
            train(name, make[name], category, arguments)
        folders = {name: folder_of(name, category, arguments) for name in VARIANTS}
        trained = {name: folder for name, folder in folders.items() if (folder / report.RESULTS_FILE).is_file()}
        runs: Runs = {name: _runs(folder) for name, folder in trained.items()}
        record[category] = {"runs": runs}
        if arguments.latency:
            from .latency import latencies  # needs OpenVINO

            record[category]["latency"] = latencies(
                {name: (make[name], _checkpoint(folder)) for name, folder in trained.items()}
            )
        print(f"\n{category}, {arguments.epochs} epochs\n\n{table(runs, record[category].get('latency'))}")
    files.write_text(arguments.output / f"{arguments.epochs}_epochs.json", json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
