"""Results of runs, made up for the tests of reports."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_stfpm.comparison.predictions import FALSE_ALARMS, HITS, MISSES
from anomalib_stfpm.comparison.record import CategoryResults, RunResult, record


def measured(folder: Path, accuracy: float = 0.9, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """What a run has written."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "images" / "0.jpg"), np.full((8, 8, 3), 128, np.uint8))
    shown = {"path": "test/bad/<0>.png", "score": 0.5, "is_anomalous": True, "picture": "0.jpg", "overlay": "0.jpg"}
    metrics = {"image_AUROC": accuracy, "image_F1Score": 0.7, "pixel_AUROC": 0.8, "AUPRO": accuracy}
    agreement = {
        "score_correlation": 0.9995,
        "float_metrics": {"image_AUROC": accuracy, "AUPRO": accuracy},
        "quantized_metrics": {"image_AUROC": accuracy - 0.002, "AUPRO": accuracy + 0.001},
    }
    return {
        "metrics": metrics,
        "fit_seconds": 10.0,
        "fit_peak_bytes": 2e9,
        "threshold": 0.5,
        "scores": [{"path": "0", "is_defective": False, "score": 0.1}, {"path": "1", "is_defective": True, "score": 1}],
        "curves": {"ROC": [[0, 0, 1], [0, 1, 1]], "PRO": [[0, 0.3], [0.2, 0.9]]},
        "images": {HITS: [shown], MISSES: [shown], FALSE_ALARMS: []},
        "notes": [],
        "problems": [],
        "exported": {
            "float": {"path": "m.xml", "size_bytes": 5e6, "score_difference": 1e-6},
            "int8": {"path": "q.xml", "size_bytes": 2e6, "agreement": agreement},
        },
        **changes,
    }


def timing(model: str, milliseconds: float) -> list[dict[str, Any]]:
    """Timings of a model in three formats, of which 8 bits take half the time."""
    formats = [("float", "f32", 1.0), ("float", "bf16", 0.7), ("int8", "f32", 0.5), ("int8", "bf16", 0.4)]
    return [
        {
            "model": model,
            "kind": kind,
            "precision": precision,
            "median_ms": milliseconds * factor,
            "p95_ms": 2 * milliseconds * factor,
            "pictures_per_second": 1000 / milliseconds / factor,
        }
        for kind, precision, factor in formats
    ]


def compared(folder: Path, accuracies: dict[str, list[float]], milliseconds: dict[str, float]) -> dict[str, Any]:
    """The record of a comparison on one category, with an accuracy for each seed of a model."""
    runs = [
        RunResult(model, seed, Path(model, str(seed)), measured(folder / model / str(seed), accuracy), None)
        for model, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]
    timings = [one for model, value in milliseconds.items() for one in timing(model, value)]
    return record({"seeds": [0, 1]}, [CategoryResults("part", runs, {"timings": timings})])
