"""``anomalib-stfpm tiled-ensemble``: train and test one student for each tile position of large images."""

from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from anomalib.pipelines.tiled_ensemble import EvalTiledEnsemble, TrainTiledEnsemble
from jsonargparse import Namespace

from anomalib_stfpm.components.post_processor import NormalPostProcessor
from anomalib_stfpm.registry import ensembles_post_process_with, failures_of_pipelines

_SECTIONS = {
    "": (
        "seed", "accelerator", "default_root_dir", "tiling", "normalization_stage", "thresholding_stage", "data",
        "SeamSmoothing", "TrainModels",
    ),
    "tiling": ("image_size", "tile_size", "stride"),
    "data": ("class_path", "init_args"),
    # Each tile has its own datamodule: without a seed, each would hold out other images.
    "data.init_args": ("val_split_mode", "test_split_mode", "seed"),
    "TrainModels": ("model",),
    "TrainModels.model": ("class_path",),
}  # fmt: skip


def parser() -> ArgumentParser:
    """Make the parser of the verb's arguments."""
    made = ArgumentParser(
        prog="anomalib-stfpm tiled-ensemble",
        description="Train one student for each tile position with anomalib's tiled ensemble, merge their anomaly maps "
        "and test.",
    )
    made.add_argument("--config", type=Path, required=True, help="YAML file for anomalib's tiled ensemble")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return the exit code. Raises the first error of the pipeline, which only logs errors."""
    config = parser().parse_args(list(arguments)).config
    _check(config)
    training = TrainTiledEnsemble()
    _run(training, config)
    _run(EvalTiledEnsemble(training.root_dir), config)
    print(f"Wrote {training.root_dir}")
    return 0


def _run(pipeline: TrainTiledEnsemble | EvalTiledEnsemble, config: Path) -> None:
    # anomalib's post-processor makes nearly all of a heat map zero if validation has normal images only.
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
