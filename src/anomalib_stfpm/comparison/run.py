"""One run of a comparison: train, test and export a model on a category with a seed, in a process of its own.

``python -m anomalib_stfpm.comparison.run FOLDER`` does what ``FOLDER/job.json`` says.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from anomalib.deploy import CompressionType
from anomalib.engine import Engine
from anomalib.models.components import AnomalibModule
from lightning.pytorch import seed_everything

from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.comparison import predictions
from anomalib_stfpm.comparison.conditions import Conditions
from anomalib_stfpm.comparison.contestant import Contestant, made_datamodule
from anomalib_stfpm.comparison.pretrained import pretrained
from anomalib_stfpm.openvino.export import StfpmExport
from anomalib_stfpm.results import environment, finite_json
from anomalib_stfpm_deploy import files, machine

JOB_FILE, RESULT_FILE = "job.json", "result.json"
IMAGES = "images"
FLOAT, INT8 = "float", "int8"

_COMPARED = 50  # images of the exported model and of torch


@dataclass(frozen=True)
class Job:
    """What one run does."""

    contestant: Contestant
    conditions: Conditions
    data: dict[str, Any]
    seed: int  # of the model, the held-out images and the order of the others
    exports: bool

    def write(self, folder: Path) -> None:
        """Write it for :meth:`read`."""
        files.write_text(folder / JOB_FILE, json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "Job":
        """Read what :meth:`write` has written."""
        read = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        conditions = Conditions(**{**read["conditions"], "input_size": tuple(read["conditions"]["input_size"])})
        return cls(Contestant(**read["contestant"]), conditions, read["data"], read["seed"], read["exports"])


def run(job: Job, folder: Path) -> None:
    """Train, test and export a model, and write ``result.json`` after each step that may be the last."""
    seed_everything(job.seed, workers=True)
    datamodule = datamodule_of(job)
    backbone = job.conditions.backbone
    with pretrained(backbone, teacher_weights.read(backbone, job.conditions.teacher_weights)):
        model = job.contestant.make(job.conditions)
    model.evaluator = evaluator = predictions.Predictions()
    with TemporaryDirectory() as folder_of_engine:
        engine = Engine(
            default_root_dir=folder_of_engine,
            max_epochs=job.contestant.max_epochs or job.conditions.max_epochs,
            accelerator=job.conditions.accelerator,
            devices=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        start = time.perf_counter()
        engine.fit(model, datamodule=datamodule)
        fit_seconds, peak = time.perf_counter() - start, machine.peak_bytes()
        (metrics,) = engine.test(model, datamodule=datamodule, verbose=False)
    processor: Any = model.post_processor
    result: dict[str, Any] = {
        "metrics": predictions.measured(metrics, evaluator.all),
        "fit_seconds": fit_seconds,
        "fit_peak_bytes": peak,
        "threshold": float(processor.image_threshold) if processor is not None else None,
        "scores": [{"path": one.path, "is_defective": one.is_defective, "score": one.score} for one in evaluator.all],
        "curves": predictions.curves(evaluator.all),
        "images": predictions.write_images(evaluator.all, folder / IMAGES),
        "notes": predictions.notes(evaluator.all),
        "problems": [],
        "exported": {},
        "environment": environment.describe(),
    }
    _write(folder, result)
    if job.exports:
        evaluator.all.clear()
        _export(model.cpu().eval(), datamodule, job.conditions, folder, result)


def datamodule_of(job: Job) -> AnomalibDataModule:
    """Make a job's datamodule, which holds out normal training images for validation."""
    datamodule = made_datamodule(job.data)
    datamodule.seed = job.seed
    datamodule.val_split_mode = ValSplitMode.FROM_TRAIN
    datamodule.val_split_ratio = job.conditions.val_split_ratio
    if job.contestant.train_batch_size is not None:
        datamodule.train_batch_size = job.contestant.train_batch_size
    return datamodule


def _export(
    model: AnomalibModule, datamodule: AnomalibDataModule, conditions: Conditions, folder: Path, result: dict[str, Any]
) -> None:
    """Export in floating point and in 8 bits. What does not work is a problem of that format alone."""
    exported: dict[str, Any] = result["exported"]

    def step(name: str, do: Callable[[], dict[str, Any]]) -> None:
        try:
            exported[name] = do()
        except Exception as error:
            lines = str(error).strip().splitlines() or [""]
            result["problems"].append(f"The export to {name} failed: {type(error).__name__}: {lines[0]}")
        _write(folder, result)

    step(FLOAT, lambda: _export_float(model, datamodule, conditions, folder))
    if FLOAT in exported:
        step(INT8, lambda: _export_int8(model, datamodule, folder, folder / exported[FLOAT]["path"]))


def _export_float(
    model: Any,  # noqa: ANN401  # an AnomalibModule, which the type checker thinks no StfpmExport can be
    datamodule: AnomalibDataModule,
    conditions: Conditions,
    folder: Path,
) -> dict[str, Any]:
    import openvino  # only exports need it

    from anomalib_stfpm.openvino import ImagesOf
    from anomalib_stfpm.openvino.prediction import predict, without_clamping

    # Of a fixed batch size, for graphs that take no other than they were exported with.
    options: Any = (
        {} if isinstance(model, StfpmExport) else {"onnx_kwargs": {"dynamic_shapes": None, "opset_version": 18}}
    )
    path = model.to_openvino(folder / FLOAT, input_size=conditions.input_size, **options)
    exported = openvino.Core().read_model(path)
    images = ImagesOf(datamodule, _transform(model), exported)
    processor = model.post_processor
    is_clamped = processor is not None and bool(processor.image_max > processor.image_min)
    graph = without_clamping(exported) if is_clamped else exported
    compiled = openvino.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    differences = []
    for held_out in islice(images.test(), _COMPARED):
        there: Any = predict(compiled, held_out)
        with torch.inference_mode():
            image = torch.from_numpy(held_out.image)
            here = _unclamped_score(model, image) if is_clamped else model(image).pred_score
        differences.append(float((here - there.pred_score).abs().max() / here.abs().max().clamp_min(1)))
    return {**_files(path, folder), "score_difference": max(differences)}


def _unclamped_score(model: Any, image: torch.Tensor) -> torch.Tensor:  # noqa: ANN401  # see above
    """Normalise a score as the exported model does, but not to 0 to 1, where all that lies beyond would agree."""
    score = model.model(image if model.pre_processor is None else model.pre_processor(image)).pred_score
    processor = model.post_processor
    normalised: torch.Tensor = (score - processor.image_threshold) / (processor.image_max - processor.image_min) + 0.5
    return normalised


def _export_int8(
    model: Any,  # noqa: ANN401  # see above
    datamodule: AnomalibDataModule,
    folder: Path,
    in_float: Path,
) -> dict[str, Any]:
    if isinstance(model, StfpmExport):
        path = model.to_openvino(folder / INT8, compression_type=CompressionType.INT8_PTQ, datamodule=datamodule)
        agreement = json.loads(path.with_suffix(".agreement.json").read_text(encoding="utf-8"))
    else:
        import nncf
        import openvino

        from anomalib_stfpm.openvino import ImagesOf, measure_agreement

        # What anomalib's INT8_PTQ does, but for images of another size than the model's, which it fails on.
        float_model = openvino.Core().read_model(in_float)
        images = ImagesOf(datamodule, _transform(model), float_model)
        calibration = images.calibration()
        quantized = nncf.quantize(float_model.clone(), nncf.Dataset(calibration), subset_size=len(calibration))
        path = folder / INT8 / in_float.relative_to(folder / FLOAT)
        path.parent.mkdir(parents=True, exist_ok=True)
        openvino.save_model(quantized, path, compress_to_fp16=False)
        agreement = measure_agreement(float_model, quantized, images.test()).as_dict()
    return {**_files(path, folder), "agreement": agreement}


def _transform(model: AnomalibModule) -> Any:  # noqa: ANN401  # a transform of torchvision, or none
    return getattr(model.pre_processor, "transform", None)


def _files(path: Path, folder: Path) -> dict[str, Any]:
    size = sum(part.stat().st_size for part in (path, path.with_suffix(".bin")))
    return {"path": path.relative_to(folder).as_posix(), "size_bytes": size}


def _write(folder: Path, result: dict[str, Any]) -> None:
    files.write_text(folder / RESULT_FILE, finite_json.dumps(result))


def main() -> None:
    """Run the job in the folder that the command line names, and end if the process that asked for it does."""
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    folder = Path(sys.argv[1])
    try:
        run(Job.read(folder), folder)
    except Exception as error:
        traceback.print_exc()
        sys.exit(f"{type(error).__name__}: {' '.join(str(error).split())}")  # the last line says it all


def _end_with_standard_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
