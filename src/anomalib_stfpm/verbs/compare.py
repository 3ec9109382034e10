"""``anomalib-stfpm compare``: which model to deploy, measured on your own images."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule
from jsonargparse import ActionConfigFile, ArgumentParser, Namespace

from anomalib_stfpm.comparison import DEFAULT_MODELS, Conditions, Contestant, compare
from anomalib_stfpm.comparison.contestant import class_of
from anomalib_stfpm.comparison.report import MARKDOWN_FILE, PAGE_FILE
from anomalib_stfpm.verbs import shared_options
from anomalib_stfpm_deploy.cli import INTERRUPTED
from anomalib_stfpm_deploy.files import lock_folder


def parser() -> ArgumentParser:
    """Make the parser."""
    made = ArgumentParser(
        prog="anomalib-stfpm compare",
        description="Train, test, export and time models on the same images, with the same backbone, and write a "
        "report: comparison.html, .md, .csv and .json. The same command goes on where it was interrupted, and does "
        "runs that have failed again. The exit code is 1 if anything has failed.",
    )
    made.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments")
    made.add_subclass_arguments(AnomalibDataModule, "data", required=True, instantiate=False)
    made.add_argument("--categories", type=str, nargs="+", help="all categories of the datamodule, if several")
    made.add_argument(
        "--models",
        type=str | dict[str, Any],
        nargs="+",
        help="class paths of anomalib's models, or mappings with class_path and any of name, init_args, max_epochs, "
        f"train_batch_size; {', '.join(one.name for one in DEFAULT_MODELS)} unless given",
    )
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds, each for a run of every model")
    made.add_argument("--output", type=Path, default=Path("results/compare"), help="folder to write to")
    shared_options.add_cluster(made)
    made.add_class_arguments(Conditions, "conditions", instantiate=True)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb."""
    made = parser()
    given = made.parse_args(list(arguments))
    conditions = made.instantiate_classes(given).conditions
    contestants = [Contestant.read(one) for one in given.models or []] or list(DEFAULT_MODELS)
    try:
        with lock_folder(given.output):
            cluster = shared_options.cluster_of(given, conditions.accelerator)
            record = compare(data_of(given), contestants, conditions, given.output, given.seeds, cluster)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on with the run that was not finished.")
        return INTERRUPTED
    print(f"\n{(given.output / MARKDOWN_FILE).read_text(encoding='utf-8')}\n{given.output / PAGE_FILE}")
    return 1 if record["problems"] else 0


def data_of(given: Namespace) -> dict[str, dict[str, Any]]:
    """Find the datamodule of each category."""
    data: dict[str, Any] = given.data.as_dict() if isinstance(given.data, Namespace) else given.data
    arguments: Mapping[str, Any] = data.get("init_args") or {}
    if given.categories is None:
        name = arguments.get("category") or arguments.get("name") or data["class_path"].rpartition(".")[2]
        return {str(name): data}
    if "category" not in inspect.signature(class_of(data["class_path"], AnomalibDataModule)).parameters:
        msg = f"{data['class_path']} knows no categories: leave out --categories."
        raise ValueError(msg)
    return {
        category: {**data, "init_args": {**arguments, "category": category}}
        for category in dict.fromkeys(given.categories)
    }
