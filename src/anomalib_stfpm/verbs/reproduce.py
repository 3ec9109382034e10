"""``anomalib-stfpm reproduce``: train and test as the paper does, and compare with the published results."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser

from anomalib_stfpm.reproduction import Protocol, authors_stfpm, reproduce
from anomalib_stfpm.reproduction.protocol import ORIGINAL_RECIPE
from anomalib_stfpm.verbs import shared_options
from anomalib_stfpm_deploy.cli import INTERRUPTED
from anomalib_stfpm_deploy.files import lock_folder


def parser() -> ArgumentParser:
    """Make the parser of the verb's arguments."""
    made = ArgumentParser(
        prog="anomalib-stfpm reproduce",
        description="Train and test categories as the paper does, and compare with the published results. "
        "--model.level_weights defaults to 2 for every level, because the code behind the published results omits the "
        "factor 1/2 of the paper's loss. Run the same command again to resume. The exit code is 1 if a category has no "
        "result.",
    )
    made.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments")
    made.add_argument("--root", type=Path, required=True, help="folder that holds a folder for each category")
    made.add_argument("--categories", type=str, nargs="+", help="all in root, unless given")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds, each for a run of every category")
    made.add_argument("--output", type=Path, default=Path("results/reproduce"), help="folder to write to")
    shared_options.add_cluster(made)
    shared_options.add_model(made)
    made.set_defaults({f"model.{name}": value for name, value in ORIGINAL_RECIPE.items()})
    made.add_class_arguments(Protocol, "protocol", instantiate=True)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code: 0, 1 if a category has no result, 130 if interrupted."""
    made = parser()
    settings = made.instantiate_classes(made.parse_args(list(arguments)))
    make_model = partial(authors_stfpm, **settings.model.as_dict())
    try:
        with lock_folder(settings.output):
            cluster = shared_options.cluster_of(settings, settings.protocol.accelerator)
            given = (settings.root, settings.output, settings.categories, settings.seeds, cluster)
            missing = reproduce(make_model, settings.protocol, *given)
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from the last epoch that was finished.")
        return INTERRUPTED
    print(f"\n{(settings.output / 'results.md').read_text(encoding='utf-8')}")
    return 1 if missing else 0
