"""``anomalib-stfpm train-all``: a checkpoint, thresholds and an exported model for every category."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser

from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.reproduction import Protocol
from anomalib_stfpm.train_all import train_all
from anomalib_stfpm.train_all.all_categories import COMPRESSIONS
from anomalib_stfpm.train_all.table import MARKDOWN_FILE
from anomalib_stfpm.verbs import shared_options
from anomalib_stfpm_deploy.cli import INTERRUPTED
from anomalib_stfpm_deploy.files import lock_folder


def parser() -> ArgumentParser:
    """Make the parser of the verb's arguments."""
    made = ArgumentParser(
        prog="anomalib-stfpm train-all",
        description="Train a model for every category of a root, set its thresholds from held-out normal images, test "
        "it if there are test images, and export it to OpenVINO. Writes models.csv and models.md. Run the same command "
        "again to resume. The exit code is 1 if a category has no model.",
    )
    made.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments")
    made.add_argument("--root", type=Path, required=True, help="folder that holds a folder for each category")
    made.add_argument("--categories", type=str, nargs="+", help="all in root, unless given")
    made.add_argument("--seed", type=int, default=0, help="seed of every training")
    made.add_argument("--compression_type", type=str | None, help=f"of the exported models: {', '.join(COMPRESSIONS)}")
    made.add_argument("--output", type=Path, default=Path("results/train_all"), help="folder to write to")
    shared_options.add_cluster(made)
    shared_options.add_model(made)
    made.add_class_arguments(Protocol, "protocol", instantiate=True)
    made.set_defaults({"protocol.max_epochs": 60, "protocol.train_batch_size": 8})  # the recommended recipe
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code: 0, 1 if a category has no model, 130 if interrupted."""
    made = parser()
    given = made.instantiate_classes(made.parse_args(list(arguments)))
    make_model = partial(Stfpm, **given.model.as_dict(), visualizer=False)
    try:
        with lock_folder(given.output):
            cluster = shared_options.cluster_of(given, given.protocol.accelerator)
            how = (given.categories, given.seed, given.compression_type, cluster)
            missing = train_all(make_model, given.protocol, given.root, given.output, *how)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from the last epoch that was finished.")
        return INTERRUPTED
    print(f"\n{(given.output / MARKDOWN_FILE).read_text(encoding='utf-8')}")
    return 1 if missing else 0
