"""The graph of an exported model: where its thresholds are, and how to change them."""

from typing import Any

import numpy as np
import openvino
from openvino import opset13 as operations

from anomalib_stfpm_deploy.thresholds import Thresholds, rescaling

_COMPARED = {"pred_score": "pred_label", "anomaly_map": "pred_mask"}


def thresholds_of(model: openvino.Model) -> Thresholds:
    """Return what the model compares its scores and maps with; ``None`` for what it does not compare.

    Example:
        >>> from openvino import opset13
        >>> image = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> label = opset13.greater(opset13.reduce_max(image, [1, 2, 3]), np.float32(0.5))
        >>> label.output(0).set_names({"pred_label"})
        >>> thresholds_of(openvino.Model([label], [image]))
        Thresholds(image=0.5, pixel=None)
    """
    return Thresholds(*(_threshold(model, label) for label in _COMPARED.values()))


def remove_clamps(model: openvino.Model) -> None:
    """Give scores and maps as they are, not clamped to the range from 0 to 1. Labels and masks stay the same."""
    for name in _COMPARED:
        clamp, result = _clamp(model, name), _output(model, name)
        if clamp is not None and result is not None:
            source = clamp.input_value(0)
            result.input(0).replace_source_output(source)
            source.get_tensor().add_names({name})
    model.validate_nodes_and_infer_types()


def fuse_clips(model: openvino.Model) -> None:
    """Replace the clips of an ONNX model by clamps. OpenVINO reads each as the minimum of a maximum."""
    for node in model.get_ordered_ops():
        above = _limited(node, "Minimum")
        below = above and _limited(above[0].get_node(), "Maximum")
        if above is None or below is None:
            continue
        clamp = operations.clamp(below[0], below[1], above[1])
        clamp.output(0).get_tensor().set_names(node.output(0).get_names())
        for target in node.output(0).get_target_inputs():
            target.replace_source_output(clamp.output(0))
    model.validate_nodes_and_infer_types()


def set_thresholds(model: openvino.Model, new: Thresholds) -> None:
    """Move the thresholds of a model.

    Normalised scores are shifted and normalised maps are scaled, so that the new thresholds are where the old ones
    were: labels, masks, scores and maps agree as before. Where scores are not normalised, only the threshold changes.

    Args:
        model: The model, which is changed.
        new: The thresholds, on the scale of scores and maps that are not clamped.

    Raises:
        ValueError: If the model has no threshold to move.
    """
    own = thresholds_of(model)
    for name, before, after in zip(_COMPARED, (own.image, own.pixel), (new.image, new.pixel), strict=True):
        if after is None:
            continue
        if before is None:
            msg = f"The model does not compare its {name} with a threshold: export it with thresholds."
            raise ValueError(msg)
        clamp = _clamp(model, name)
        if clamp is None:
            compared = _comparison(model, _COMPARED[name])
            compared.input(1).replace_source_output(_constant(after, compared.input_value(0)).output(0))
            continue
        source = clamp.input_value(0)
        factor, summand = rescaling(before, after) if name == "anomaly_map" else (1.0, before - after)
        moved = operations.add(operations.multiply(source, _constant(factor, source)), _constant(summand, source))
        clamp.input(0).replace_source_output(moved.output(0))
    model.validate_nodes_and_infer_types()


def _constant(value: float, like: openvino.Output) -> openvino.Node:
    return operations.constant(value, like.get_element_type())


def _output(model: openvino.Model, name: str) -> openvino.Node | None:
    return next((output.get_node() for output in model.outputs if name in output.get_names()), None)


def _clamp(model: openvino.Model, name: str) -> openvino.Node | None:
    """Return the node that clamps an output, behind choices that anomalib's own models have made at export."""
    result = _output(model, name)
    node = result and result.input_value(0).get_node()
    while node is not None and node.get_type_name() == "Select":
        condition = _value(node.input_value(0))
        if condition is None:
            return None
        node = node.input_value(1 if condition.all() else 2).get_node()
    return node if node is not None and node.get_type_name() == "Clamp" else None


def _comparison(model: openvino.Model, label: str) -> Any:  # noqa: ANN401  # openvino's types are not known
    result = _output(model, label)
    node = result and result.input_value(0).get_node()
    return node if node is not None and node.get_type_name() == "Greater" else None


def _threshold(model: openvino.Model, label: str) -> float | None:
    compared = _comparison(model, label)
    value = None if compared is None else _value(compared.input_value(1))
    return None if value is None or value.size != 1 else float(value.flat[0])


def _limited(node: openvino.Node, kind: str) -> tuple[openvino.Output, float] | None:
    """Return what a minimum or maximum limits, and to which number."""
    if node.get_type_name() != kind:
        return None
    first, second = node.input_values()
    for data, limit in ((first, second), (second, first)):
        value = _value(limit)
        if value is not None and value.size == 1:
            return data, float(value.flat[0])
    return None


def _value(output: openvino.Output) -> Any:  # noqa: ANN401  # an array of any type, or nothing
    node = output.get_node()
    while node.get_type_name() == "Convert":  # weights may be stored with fewer bits
        node = node.input_value(0).get_node()
    return np.asarray(node.get_data()) if node.get_type_name() == "Constant" else None
