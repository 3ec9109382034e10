"""``anomalib-stfpm import-checkpoint``: convert a student that the authors published into a checkpoint."""

import logging
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.reproduction.original_checkpoint import import_checkpoint


def parser() -> ArgumentParser:
    """Make the parser of the verb's arguments."""
    made = ArgumentParser(
        prog="anomalib-stfpm import-checkpoint",
        description="Convert a student that the authors of STFPM published into a checkpoint for anomalib. The "
        "published file has no thresholds, so scores and maps are not normalised.",
    )
    made.add_argument("path", type=Path, help="the published file, best.pth.tar")
    made.add_argument("--output", type=Path, required=True, help="checkpoint to write, student.ckpt")
    made.add_argument("--teacher_weights", default=teacher_weights.HUB, help="hub, or a file with ResNet-18 weights")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code."""
    given = parser().parse_args(list(arguments))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    print(f"Wrote {import_checkpoint(given.path, given.output, given.teacher_weights)}")
    return 0
