"""``anomalib-stfpm import-checkpoint``: turn a student that the authors published into a checkpoint."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from anomalib_stfpm import teacher_weights
from anomalib_stfpm.original_checkpoint import import_checkpoint


def parser() -> ArgumentParser:
    """Make the parser.

    Returns:
        A parser of the verb's arguments.
    """
    made = ArgumentParser(
        prog="anomalib-stfpm import-checkpoint",
        description="Turn a student that the authors of STFPM published into a checkpoint for anomalib. It has no "
        "thresholds, for the file has none: scores and maps are those of the network, not normalised.",
    )
    made.add_argument("path", type=Path, help="the published file, best.pth.tar")
    made.add_argument("--output", type=Path, required=True, help="checkpoint to write, student.ckpt")
    made.add_argument("--teacher_weights", default=teacher_weights.HUB, help="hub, or a file with ResNet-18 weights")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb.

    Args:
        arguments: What the command line says after the verb.

    Returns:
        The exit code.

    Raises:
        OSError: If a file is missing or in the way, or the teacher's weights are out of reach.
        ValueError: If the published file cannot be used, see :func:`anomalib_stfpm.import_checkpoint`.
    """
    given = parser().parse_args(list(arguments))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    print(f"Wrote {import_checkpoint(given.path, given.output, given.teacher_weights)}")
    return 0
