"""``anomalib-stfpm reproduce``: train and test categories as the paper does, beside the published results."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from jsonargparse import ActionConfigFile, ArgumentParser

from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.reproduction import Protocol, authors_stfpm, reproduce
from anomalib_stfpm_deploy.exit_codes import INTERRUPTED
from anomalib_stfpm_deploy.one_at_a_time import one_at_a_time


def parser() -> ArgumentParser:
    """Make the parser.

    Returns:
        A parser of the verb's arguments.
    """
    made = ArgumentParser(
        prog="anomalib-stfpm reproduce",
        description="Train and test categories as the paper does, and put the results beside the published ones. Every "
        "level weighs 2 unless --model.level_weights says otherwise: the code behind the published results leaves out "
        "the half of the paper's loss. The same command goes on where it was interrupted. The exit code is 1 if a "
        "category is missing.",
    )
    made.add_argument("--config", action=ActionConfigFile, help="YAML file with any of these arguments")
    made.add_argument("--root", type=Path, required=True, help="folder that holds a folder for each category")
    made.add_argument("--categories", type=str, nargs="+", help="all in root, unless given")
    made.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds, each for a run of every category")
    made.add_argument("--output", type=Path, default=Path("results/reproduce"), help="folder to write to")
    made.add_class_arguments(
        Stfpm, "model", skip={"pre_processor", "post_processor", "evaluator", "visualizer"}, instantiate=False
    )
    made.add_class_arguments(Protocol, "protocol", instantiate=True)
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb.

    Args:
        arguments: What the command line says after the verb.

    Returns:
        The exit code: 0, 1 if a category is missing, 130 if interrupted.

    Raises:
        OSError: If pictures or the teacher's weights are missing, see :func:`reproduce`.
        ValueError: If an argument is not valid, see :func:`reproduce`.
    """
    made = parser()
    given = made.parse_args(list(arguments))
    settings = made.instantiate_classes(given)
    make_model = partial(authors_stfpm, **settings.model.as_dict())
    try:
        with one_at_a_time(settings.output):
            missing = reproduce(
                make_model, settings.protocol, settings.root, settings.output, settings.categories, settings.seeds
            )
    except KeyboardInterrupt:
        print("Interrupted: the same command goes on from the last epoch that was finished.")
        return INTERRUPTED
    print(f"\n{(settings.output / 'results.md').read_text(encoding='utf-8')}")
    return 1 if missing else 0
