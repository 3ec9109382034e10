"""How long each trained model takes for an image, exported to OpenVINO as anomalib exports it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from anomalib.models.components import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals

from anomalib_stfpm_deploy import timing
from anomalib_stfpm_deploy.network import Network

ROUNDS = 30


def latencies(models: dict[str, tuple[Callable[[], AnomalibModule], Path]]) -> dict[str, float]:
    """Time models in turns, one image at a time, in 32 bits on all cores.

    Args:
        models: By name, what makes the model, and the checkpoint it was trained to.

    Returns:
        Median milliseconds of an image, by name.
    """
    with tempfile.TemporaryDirectory() as folder:
        networks = [
            Network(_exported(make(), checkpoint, Path(folder, str(number))))
            for number, (make, checkpoint) in enumerate(models.values())
        ]
        milliseconds = timing.latencies(networks, ROUNDS)
    return {name: median(times) for name, times in zip(models, milliseconds, strict=True)}


def _exported(model: AnomalibModule, checkpoint: Path, folder: Path) -> Path:
    with anomalib_safe_globals():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["state_dict"])
    pre_processor: Any = model.eval().pre_processor
    size = tuple(pre_processor.transform.transforms[0].size)
    # One image at a time for all: PatchCore's graph takes no other number than it was exported with.
    return model.to_openvino(folder, input_size=size, onnx_kwargs={"dynamic_shapes": None, "opset_version": 18})
