"""Predictions of an exported model."""

from typing import Any

import openvino
import torch
from anomalib.data import ImageBatch

from anomalib_stfpm.openvino.calibration_images import HeldOut


def predict(compiled: Any, held_out: HeldOut) -> ImageBatch:  # noqa: ANN401  # a model compiled by OpenVINO or NNCF
    """Predict one image, as a batch that anomalib's metrics accept."""
    outputs = {output.any_name: torch.from_numpy(value) for output, value in compiled(held_out.image).items()}
    label, mask = held_out.label, held_out.mask
    return ImageBatch(
        image=torch.from_numpy(held_out.image),
        pred_score=outputs["pred_score"].flatten(),
        pred_label=outputs["pred_label"].flatten() if "pred_label" in outputs else None,
        anomaly_map=outputs.get("anomaly_map"),
        pred_mask=outputs.get("pred_mask"),
        gt_label=None if label is None else torch.tensor([label]),
        gt_mask=None if mask is None else mask.as_subclass(torch.Tensor).unsqueeze(0),
    )


def without_clamping(model: openvino.Model) -> openvino.Model:
    """Copy a model so that its score and map are not clamped to the range from 0 to 1.

    Clamped values far from the threshold are all equal, so they neither correlate nor rank. The copy has the outputs
    ``pred_score`` and, if the model has one, ``anomaly_map``.
    """
    raw = model.clone()
    kept = set()
    given = {name for output in raw.outputs for name in output.get_names()}
    for name in given & {"pred_score", "anomaly_map"}:
        result = raw.output(name).get_node()
        clamp = result.input_value(0).get_node()
        if clamp.get_type_name() == "Clamp":
            result.input(0).replace_source_output(clamp.input_value(0))
        result.input_value(0).get_tensor().set_names({name})
        kept.add(result.get_friendly_name())
    for result in raw.get_results():
        if result.get_friendly_name() not in kept:
            raw.remove_result(result)
    raw.validate_nodes_and_infer_types()
    return raw
