"""Train this package's and anomalib's Stfpm alike, and print both results and their difference.

Both get the same pictures, teacher weights, pre-processing, number of epochs, batch size, seeds and metrics. Everything
else is each model's own default; this package's levels weigh 2, as in the code behind the published results. This
package's keeps the student that errs least on a fifth of the normal pictures, anomalib's the last one; neither trains
on that fifth. Example, on categories in MVTec AD's layout, with or without masks:

    python -m benchmarks.against_anomalib --root datasets/MVTecAD --categories bottle screw --seeds 0 1 2

Interrupted, the same command goes on where it was.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

from anomalib.models.components import AnomalibModule

from anomalib_stfpm.reproduction import Protocol, authors_stfpm, report, reproduce

from . import peers

OURS, ANOMALIBS = "anomalib_stfpm.Stfpm", "anomalib.models.Stfpm"


def tables(output: Path, categories: list[str]) -> str:
    """Write a table a category: both means and standard deviations over seeds, and ours less anomalib's."""
    rows = {name: {row["category"]: row for row in report.read(output / name)} for name in (OURS, ANOMALIBS)}
    lines = []
    for category in categories:
        ours, anomalibs = (rows[name][category] for name in (OURS, ANOMALIBS))
        metrics = [metric for metric in report.METRICS if ours[metric] is not None]
        seeds = " ".join(str(seed) for seed in ours["seeds"])
        cells = {
            f"{category}, seeds {seeds}": metrics,
            "---": ["---"] * len(metrics),
            f"`{OURS}`": [report.with_spread(ours, metric) for metric in metrics],
            f"`{ANOMALIBS}`": [report.with_spread(anomalibs, metric) for metric in metrics],
            "difference": [f"{ours[metric] - anomalibs[metric]:+.4f}" for metric in metrics],
        }
        lines += ["", *("| " + " | ".join([first, *others]) + " |" for first, others in cells.items())]
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the categories")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--teacher-weights", default="package", help="hub, package or a file")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument(
        "--models", nargs="+", choices=[OURS, ANOMALIBS], default=[OURS, ANOMALIBS], help="both, or one"
    )
    parser.add_argument("--output", type=Path, default=Path("results/against_anomalib"))
    arguments = parser.parse_args()

    teacher = {"backbone": arguments.backbone, "teacher_weights": arguments.teacher_weights}
    make: dict[str, Callable[[], AnomalibModule]] = {
        OURS: partial(authors_stfpm, **teacher),
        ANOMALIBS: partial(peers.stfpm, **teacher),
    }
    protocol = Protocol(max_epochs=arguments.epochs)
    for name in arguments.models:
        reproduce(make[name], protocol, arguments.root, arguments.output / name, arguments.categories, arguments.seeds)
    if all((arguments.output / name / "results.json").is_file() for name in make):
        print(tables(arguments.output, arguments.categories))


if __name__ == "__main__":
    main()
