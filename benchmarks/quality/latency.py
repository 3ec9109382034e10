"""How long each trained model takes for a picture, exported to OpenVINO as anomalib exports it."""

import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino
import torch
from anomalib.models.components import AnomalibModule
from anomalib.utils.serialization import anomalib_safe_globals

WARM_UP, ROUNDS, IN_A_ROW = 20, 30, 10


def latencies(models: dict[str, tuple[Callable[[], AnomalibModule], Path]]) -> dict[str, float]:
    """Time models in turns, one picture at a time, in 32 bits on all cores.

    Args:
        models: By name, what makes the model, and the checkpoint it was trained to.

    Returns:
        Median milliseconds of a picture, by name.
    """
    requests: dict[str, tuple[Any, np.ndarray[Any, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (make, checkpoint) in models.items():
            requests[name] = _compiled(make(), checkpoint, Path(folder) / str(len(requests)))
        times: dict[str, list[float]] = defaultdict(list)
        for turn in range(ROUNDS + 1):
            for name, (request, picture) in requests.items():
                for _ in range(IN_A_ROW if turn else WARM_UP):
                    start = time.perf_counter()
                    request.infer([picture])
                    if turn:
                        times[name].append(1e3 * (time.perf_counter() - start))
    return {name: median(values) for name, values in times.items()}


def _compiled(model: AnomalibModule, checkpoint: Path, folder: Path) -> tuple[Any, np.ndarray[Any, Any]]:
    with anomalib_safe_globals():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model.load_state_dict(saved["state_dict"])
    pre_processor: Any = model.eval().pre_processor
    size = tuple(pre_processor.transform.transforms[0].size)
    # One picture at a time for all: PatchCore's graph takes no other number than it was exported with.
    path = model.to_openvino(folder, input_size=size, onnx_kwargs={"dynamic_shapes": None, "opset_version": 18})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    picture = np.random.default_rng(0).random((1, 3, *size), dtype=np.float32)
    return compiled.create_infer_request(), picture
