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
        anomaly_map=outputs["anomaly_map"],
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
        A model with the outputs ``pred_score`` and ``anomaly_map``.
    """
    outputs = []
    for name in ("pred_score", "anomaly_map"):
        source = model.output(name).get_node().input_value(0)
        node = source.get_node()
        outputs.append(node.input_value(0) if node.get_type_name() == "Clamp" else source)
    results = [openvino.opset13.result(output) for output in outputs]
    raw = openvino.Model(results, model.get_parameters(), "before_clamping").clone()
    for output, name in zip(raw.outputs, ("pred_score", "anomaly_map"), strict=True):
        output.get_tensor().set_names({name})
    return raw
