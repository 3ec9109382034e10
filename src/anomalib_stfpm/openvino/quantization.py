"""Quantization of the networks to 8 bits, with all that 8 bits are too coarse for left in floating point.

What a student learns is to differ little from its teacher, and the map is a product of squares of that little: errors
that a classifier would not notice drown it. Left in floating point are

- distance, map, score and thresholds;
- depthwise convolutions, whose channels differ too much in range to share one;
- convolutions of features that no activation bounds, as in the linear bottlenecks of mobile networks;
- the convolution of the picture where a depthwise one follows.

Ranges are those of all that calibration has seen, not of nearly all, and of ``quantize`` a quarter wider: defects lie
beyond what normal pictures show, and cut off they would score too little.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import nncf
import numpy as np
import openvino
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torchmetrics import Metric

from .pictures import HeldOut, Picture
from .prediction import predicted
from .signal_stack import signal_stack_kept

WIDER = 1.25
"""By how much the ranges of features are widened. Less cuts off more of the defects, more makes all steps coarser."""

_CONVOLUTIONS = {"Convolution", "GroupConvolution"}
_NO_OPERATIONS = {"Constant", "Parameter", "Result"}
_ACTIVATIONS = {"Clamp", "Elu", "Gelu", "HSigmoid", "HSwish", "PRelu", "Relu", "Sigmoid", "Swish"}
_POOLING = {"AvgPool", "MaxPool", "Pad"}


@signal_stack_kept()
def quantize(model: openvino.Model, pictures: Sequence[Picture]) -> openvino.Model:
    """Quantize teacher and student of an exported model.

    Args:
        model: The model, in floating point.
        pictures: Normal pictures, each of shape ``(1, 3, H, W)``, that the ranges of the features are taken from.

    Returns:
        A model of the same inputs and outputs.

    Example:
        >>> from contextlib import redirect_stdout
        >>> from openvino import opset13
        >>> picture = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> weights = np.full((4, 3, 1, 1), 0.5, np.float32)
        >>> features = opset13.convolution(picture, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        >>> model = openvino.Model([features], [picture])
        >>> with redirect_stdout(None):  # NNCF shows its progress
        ...     quantized = quantize(model, [np.ones((1, 3, 8, 8), np.float32)])
        >>> "FakeQuantize" in {operation.get_type_name() for operation in quantized.get_ops()}
        True
    """
    quantized: openvino.Model = nncf.quantize(
        model, nncf.Dataset(pictures), advanced_parameters=_all_that_was_seen(), **_options(model, pictures)
    )
    _widen_ranges(quantized)
    return quantized


@signal_stack_kept()
def quantize_with_accuracy_control(
    model: openvino.Model,
    pictures: Sequence[Picture],
    validation: Sequence[HeldOut],
    metric: Metric,
    max_drop: float,
) -> openvino.Model:
    """Quantize as much of teacher and student as leaves a metric where it is.

    Args:
        model: The model, in floating point.
        pictures: Normal pictures, each of shape ``(1, 3, H, W)``, that the ranges of the features are taken from.
        validation: Pictures to measure the metric on.
        metric: A metric of anomalib; higher is better.
        max_drop: How much less the metric may become.

    Returns:
        A model of the same inputs and outputs.

    Example:
        >>> from contextlib import redirect_stdout
        >>> from anomalib.metrics import AUROC
        >>> from openvino import opset13
        >>> picture = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> weights = np.full((4, 3, 1, 1), 0.5, np.float32)
        >>> features = opset13.convolution(picture, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        >>> model = openvino.Model([opset13.reduce_max(features, [1, 2, 3])], [picture])
        >>> model.output(0).set_names({"pred_score"})
        >>> good, bad = (np.full((1, 3, 8, 8), value, np.float32) for value in (0.1, 0.9))
        >>> validation = [HeldOut(good, label=False, mask=None), HeldOut(bad, label=True, mask=None)]
        >>> with redirect_stdout(None):  # NNCF shows its progress
        ...     quantized = quantize_with_accuracy_control(
        ...         model, [good, bad], validation, AUROC(fields=["pred_score", "gt_label"]), max_drop=0.01
        ...     )
        >>> "FakeQuantize" in {operation.get_type_name() for operation in quantized.get_ops()}
        True
    """

    def measure(candidate: Any, held_out: Iterable[HeldOut]) -> float:  # noqa: ANN401  # a compiled model
        metric.reset()
        for one in held_out:
            metric.update(predicted(candidate, one))
        return float(metric.compute())

    quantized: openvino.Model = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(pictures),
        nncf.Dataset(validation),
        measure,
        max_drop=max_drop,
        advanced_quantization_parameters=_all_that_was_seen(),
        **_options(model, pictures),
    )
    return quantized


def compress_weights(model: openvino.Model) -> openvino.Model:
    """Store the networks' weights in 8 bits, to compute with in floating point.

    Args:
        model: The model, in floating point.

    Returns:
        A model of the same inputs and outputs.

    Example:
        >>> from contextlib import redirect_stdout
        >>> from openvino import opset13
        >>> picture = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> weights = np.full((4, 3, 1, 1), 0.5, np.float32)
        >>> features = opset13.convolution(picture, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        >>> with redirect_stdout(None):  # NNCF shows its progress
        ...     compressed = compress_weights(openvino.Model([features], [picture]))
        >>> {operation.get_element_type().to_string() for operation in compressed.get_ops()} >= {"u8"}
        True
    """
    behind = nncf.IgnoredScope(names=_behind_the_networks(model.get_ordered_ops()))
    compressed: openvino.Model = nncf.compress_weights(model, ignored_scope=behind)
    return compressed


def left_in_floating_point(model: openvino.Model) -> nncf.IgnoredScope:
    """Find what is not to be quantized in an exported model.

    Args:
        model: The model.

    Returns:
        All operations from which no convolution is reached any more, and the convolutions that 8 bits are too coarse
        for.
    """
    operations = model.get_ordered_ops()
    behind = _behind_the_networks(operations)
    coarse = [name for name in map(_name, filter(_is_too_coarse, operations)) if name not in behind]
    return nncf.IgnoredScope(names=[*behind, *coarse])


def _behind_the_networks(operations: list[openvino.Node]) -> list[str]:
    before: set[str] = set()
    names = []
    for operation in reversed(operations):
        if operation.get_type_name() in _CONVOLUTIONS or any(_name(node) in before for node in _targets(operation)):
            before.add(_name(operation))
        elif operation.get_type_name() not in _NO_OPERATIONS:
            names.append(_name(operation))
    return names


def _is_too_coarse(operation: openvino.Node) -> bool:
    kind: str = operation.get_type_name()
    if kind not in _CONVOLUTIONS | {"MatMul"}:
        return False
    source = operation.input_value(0).get_node()
    while source.get_type_name() in _POOLING:
        source = source.input_value(0).get_node()
    if source.get_type_name() in _ACTIVATIONS:
        return kind == "GroupConvolution"
    reads_picture = not _nearest_convolutions([source], _sources)
    return not reads_picture or "GroupConvolution" in _nearest_convolutions(_targets(operation), _targets)


def _nearest_convolutions(
    operations: list[openvino.Node], step: Callable[[openvino.Node], list[openvino.Node]]
) -> set[str]:
    """Kinds of the first convolutions on all ways from some operations, up or down."""
    found, seen = set(), set()
    waiting = operations
    while waiting:
        node = waiting.pop()
        if _name(node) in seen:
            continue
        seen.add(_name(node))
        if node.get_type_name() in _CONVOLUTIONS:
            found.add(node.get_type_name())
        else:
            waiting += step(node)
    return found


def _sources(operation: openvino.Node) -> list[openvino.Node]:
    return [value.get_node() for value in operation.input_values()]


def _targets(operation: openvino.Node) -> list[openvino.Node]:
    return [target.get_node() for output in operation.outputs() for target in output.get_target_inputs()]


def _widen_ranges(model: openvino.Model) -> None:
    for operation in model.get_ordered_ops():
        if (
            operation.get_type_name() == "FakeQuantize"
            and operation.input_value(0).get_node().get_type_name() != "Constant"
        ):
            for limit in list(operation.inputs())[1:]:
                wider = limit.get_source_output().get_node().get_data() * np.float32(WIDER)
                limit.replace_source_output(openvino.opset13.constant(wider).output(0))


def _name(operation: openvino.Node) -> str:
    name: str = operation.get_friendly_name()
    return name


def _options(model: openvino.Model, pictures: Sequence[Picture]) -> dict[str, Any]:
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(pictures),
        "ignored_scope": left_in_floating_point(model),
    }


def _all_that_was_seen() -> nncf.AdvancedQuantizationParameters:
    return nncf.AdvancedQuantizationParameters(activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX)
