"""Train this package's and anomalib's Stfpm alike, and print both results and their ratios.

Both get the same pictures, teacher weights, pre-processing, number of epochs, seed and metrics. Everything else is each
model's own default. Example, on a category in MVTec AD's layout, with or without masks:

    python benchmarks/against_anomalib.py --root datasets/MVTecAD --category bottle --epochs 30
"""

import argparse
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import anomalib.models
import timm
import torch
from anomalib.data import AnomalibDataModule
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.feature_pyramid import resolve_layers
from anomalib_stfpm.teacher_weights import read


def make_ours(backbone: str, teacher_weights: str) -> AnomalibModule:
    """This package's model."""
    return Stfpm(backbone=backbone, teacher_weights=teacher_weights, visualizer=False)


def make_anomalib(backbone: str, teacher_weights: str) -> AnomalibModule:
    """Anomalib's model, which takes pretrained weights from the hub only: give it the same ones by hand."""
    create_model = timm.create_model

    def create_without_weights(*args: Any, **kwargs: Any) -> torch.nn.Module:  # noqa: ANN401
        return create_model(*args, **{**kwargs, "pretrained": False})

    with patch("timm.create_model", create_without_weights):
        model = anomalib.models.Stfpm(
            backbone=backbone,
            layers=resolve_layers(backbone, None),
            pre_processor=Stfpm.configure_pre_processor(backbone=backbone),
            evaluator=Stfpm.configure_evaluator(),
            visualizer=False,
        )
    teacher: Any = model.model.teacher_model.feature_extractor  # type: ignore[union-attr]
    missing = teacher.load_state_dict(read(backbone, teacher_weights), strict=False).missing_keys
    if missing:
        msg = f"anomalib's teacher needs weights that were not given: {missing}"
        raise ValueError(msg)
    return model


def measure(model: AnomalibModule, datamodule: AnomalibDataModule, epochs: int) -> dict[str, float]:
    """Fit and test a model; return its test metrics and the seconds that each took."""
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine(
            default_root_dir=folder,
            accelerator="cpu",
            max_epochs=epochs,
            check_val_every_n_epoch=epochs,  # thresholds come from the last epoch alone
            enable_progress_bar=False,
        )
        start = time.perf_counter()
        engine.fit(model, datamodule=datamodule)
        fit_seconds = time.perf_counter() - start
        metrics = engine.test(model, datamodule=datamodule)[0]
    return {**{name: round(value, 4) for name, value in metrics.items()}, "fit_seconds": round(fit_seconds, 1)}


def main() -> None:
    """Run the comparison and print it as a table; write it as JSON where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the category")
    parser.add_argument("--category", required=True)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--teacher-weights", default="package", help="hub, package or a file")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()

    results = {}
    for name, make in {"anomalib_stfpm.Stfpm": make_ours, "anomalib.models.Stfpm": make_anomalib}.items():
        seed_everything(arguments.seed)
        datamodule = MVTecLayout(arguments.root, arguments.category, num_workers=0)
        results[name] = measure(make(arguments.backbone, arguments.teacher_weights), datamodule, arguments.epochs)
        print(name, results[name], flush=True)

    ours, peer = results.values()
    columns = list(ours)
    print(f"\n| {arguments.category}, {arguments.epochs} epochs | " + " | ".join(columns) + " |")
    print("| --- |" + " --- |" * len(columns))
    for name, result in results.items():
        print(f"| {name} | " + " | ".join(str(result[column]) for column in columns) + " |")
    print("| ratio | " + " | ".join(f"{ours[column] / peer[column]:.3f}" for column in columns) + " |")
    if arguments.output:
        record = {
            "results": results,
            "settings": {name: getattr(arguments, name) for name in ("category", "backbone", "epochs", "seed")},
            "versions": {name: version(name) for name in ("anomalib", "anomalib-stfpm", "timm", "torch")},
            "cpu": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        }
        arguments.output.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
