"""``anomalib-stfpm tiled-ensemble``: train and test a student for each tile of large pictures."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from jsonargparse import Namespace

from anomalib_stfpm.post_processor import NormalPostProcessor
from anomalib_stfpm.registry import ensembles_post_process_with, failures_of_pipelines

_SECTIONS = {
    "": (
        "seed", "accelerator", "default_root_dir", "tiling", "normalization_stage", "thresholding_stage", "data",
        "SeamSmoothing", "TrainModels",
    ),
    "tiling": ("image_size", "tile_size", "stride"),
    "data": ("class_path", "init_args"),
    # Each tile has a datamodule of its own: without a seed, other pictures would be held out for each.
    "data.init_args": ("val_split_mode", "test_split_mode", "seed"),
    "TrainModels": ("model",),
    "TrainModels.model": ("class_path",),
}  # fmt: skip


def parser() -> ArgumentParser:
    """Make the parser.

    Returns:
        A parser of the verb's arguments.
    """
    made = ArgumentParser(
        prog="anomalib-stfpm tiled-ensemble",
        description="Train a student for each place of a tile with anomalib's tiled ensemble, put their maps together, "
        "and test them.",
    )
    made.add_argument("--config", type=Path, required=True, help="YAML file of anomalib's tiled ensemble")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb.

    Args:
        arguments: What the command line says after the verb.

    Returns:
        The exit code.

    Raises:
        FileNotFoundError: If there is no such configuration.
        ValueError: If the configuration lacks something.
        Exception: What has failed first in a job of the pipeline, which itself would go on with nothing.
    """
    config = parser().parse_args(list(arguments)).config
    _check(config)
    training = TrainTiledEnsemble()
    _run(training, config)
    _run(EvalTiledEnsemble(training.root_dir), config)
    print(f"Wrote {training.root_dir}")
    return 0


def _run(pipeline: TrainTiledEnsemble | EvalTiledEnsemble, config: Path) -> None:
    # With anomalib's, where validation holds normal pictures only, nearly all of a heat map would be zero.
    with failures_of_pipelines() as failures, ensembles_post_process_with(NormalPostProcessor):
        pipeline.run(Namespace(config=config))  # type: ignore[no-untyped-call]
    if failures:
        raise failures[0]


def _check(config: Path) -> None:
    if not config.is_file():
        msg = f"--config must be the YAML file of a tiled ensemble: there is no '{config}'."
        raise FileNotFoundError(msg)
    try:
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        msg = f"'{config}' is not YAML: {' '.join(str(error).split())}."
        raise ValueError(msg) from error
    for section, needed in _SECTIONS.items():
        part: Any = content
        for name in filter(None, section.split(".")):
            part = part[name]
        missing = [name for name in needed if not isinstance(part, dict) or part.get(name) is None]
        if missing:
            where = f" in {section}" if section else ""
            msg = f"'{config}' must have {', '.join(missing)}{where}, as configs/tiled_ensemble.yaml has."
            raise ValueError(msg)
