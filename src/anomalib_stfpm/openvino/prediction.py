"""What an exported model predicts, as anomalib's metrics take it."""

from typing import Any

import openvino
import torch
from anomalib.data import ImageBatch

from .pictures import HeldOut


def predicted(compiled: Any, held_out: HeldOut) -> ImageBatch:  # noqa: ANN401  # openvino's or NNCF's compiled model
    """Predict a picture.

    Args:
        compiled: The model.
        held_out: The picture.

    Returns:
        A batch of one picture.
    """
    outputs = {output.any_name: torch.from_numpy(value) for output, value in compiled(held_out.picture).items()}
    label, mask = held_out.label, held_out.mask
    return ImageBatch(
        image=torch.from_numpy(held_out.picture),
        pred_score=outputs["pred_score"].flatten(),
        pred_label=outputs["pred_label"].flatten() if "pred_label" in outputs else None,
        anomaly_map=outputs.get("anomaly_map"),
        pred_mask=outputs.get("pred_mask"),
        gt_label=None if label is None else torch.tensor([label]),
        gt_mask=None if mask is None else mask.as_subclass(torch.Tensor).unsqueeze(0),
    )


def before_clamping(model: openvino.Model) -> openvino.Model:
    """Let a model give score and map as they are before the post-processor clamps them to 0 to 1.

    Clamped, all that is far from the threshold is equal, and neither correlates nor ranks.

    Args:
        model: The model, which stays as it is.

    Returns:
        A model with the outputs ``pred_score`` and, if the model makes maps, ``anomaly_map``.
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
