"""Quantization of teacher and student to 8 bits; what needs more precision stays in floating point.

A student differs little from its teacher on normal images, and the anomaly map is a product of squares of that
difference: errors that a classifier tolerates hide it. These operations stay in floating point:

- distance, map, score and thresholds;
- depthwise convolutions, whose channels have too different ranges;
- convolutions and layer normalisation of features without an activation, as in the linear bottlenecks of mobile
  networks and in ConvNeXt;
- the resize of images in front of the networks;
- the first convolution, if a depthwise one follows.

Ranges include all calibration features, not only most. ``quantize`` widens them by a quarter: defects exceed what
normal images show, and would score too low if cut off.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import nncf
import numpy as np
import openvino
from nncf.quantization.advanced_parameters import OverflowFix
from nncf.quantization.range_estimator import RangeEstimatorParametersSet
from torchmetrics import Metric

from anomalib_stfpm.openvino.calibration_images import HeldOut, ImageArray
from anomalib_stfpm.openvino.prediction import predict
from anomalib_stfpm.openvino.signal_stack import signal_stack_kept

nncf.set_log_level(logging.WARNING)  # it would name every operation that stays in floating point

WIDER = 1.25
"""Factor of the ranges of features. A smaller one cuts off more of the defects, a larger one makes steps coarser."""

_CONVOLUTIONS = {"Convolution", "GroupConvolution"}
_NO_OPERATIONS = {"Constant", "Parameter", "Result"}
_ACTIVATIONS = {"Clamp", "Elu", "Gelu", "HSigmoid", "HSwish", "PRelu", "Relu", "Sigmoid", "Swish"}
_POOLING = {"AvgPool", "MaxPool", "Pad"}
_FULL_RANGES = nncf.AdvancedQuantizationParameters(
    activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    overflow_fix=OverflowFix.ENABLE,  # else sums overflow on processors without VNNI, which are common at machines
)


@signal_stack_kept()
def quantize(model: openvino.Model, images: Sequence[ImageArray]) -> openvino.Model:
    """Quantize teacher and student of an exported model to 8 bits.

    Args:
        model: The floating-point model.
        images: Normal images of shape ``(1, 3, H, W)`` to calibrate with.

    Returns:
        A model with the same inputs and outputs.

    Example:
        >>> from contextlib import redirect_stdout
        >>> from openvino import opset13
        >>> image = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> weights = np.full((4, 3, 1, 1), 0.5, np.float32)
        >>> features = opset13.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        >>> model = openvino.Model([features], [image])
        >>> with redirect_stdout(None):  # NNCF shows its progress
        ...     quantized = quantize(model, [np.ones((1, 3, 8, 8), np.float32)])
        >>> "FakeQuantize" in {operation.get_type_name() for operation in quantized.get_ops()}
        True
    """
    quantized: openvino.Model = nncf.quantize(
        model, nncf.Dataset(images), advanced_parameters=_FULL_RANGES, **_options(model, images)
    )
    _widen_ranges(quantized)
    return quantized


@signal_stack_kept()
def quantize_with_accuracy_control(
    model: openvino.Model,
    images: Sequence[ImageArray],
    validation: Sequence[HeldOut],
    metric: Metric,
    max_drop: float,
) -> openvino.Model:
    """Quantize as much of teacher and student as a metric allows.

    Args:
        model: The floating-point model.
        images: Normal images of shape ``(1, 3, H, W)`` to calibrate with.
        validation: Images to measure the metric on.
        metric: A metric of anomalib; higher is better.
        max_drop: Largest allowed drop of the metric.

    Returns:
        A model with the same inputs and outputs.

    Example:
        >>> from contextlib import redirect_stdout
        >>> from anomalib.metrics import AUROC
        >>> from openvino import opset13
        >>> image = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> weights = np.full((4, 3, 1, 1), 0.5, np.float32)
        >>> features = opset13.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        >>> model = openvino.Model([opset13.reduce_max(features, [1, 2, 3])], [image])
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
            metric.update(predict(candidate, one))
        return float(metric.compute())

    quantized: openvino.Model = nncf.quantize_with_accuracy_control(
        model,
        nncf.Dataset(images),
        nncf.Dataset(validation),
        measure,
        max_drop=max_drop,
        advanced_quantization_parameters=_FULL_RANGES,
        **_options(model, images),
    )
    return quantized


def compress_weights(model: openvino.Model) -> openvino.Model:
    """Store the networks' weights in 8 bits, but compute in floating point.

    Args:
        model: The floating-point model.

    Returns:
        A model with the same inputs and outputs.

    Example:
        >>> from contextlib import redirect_stdout
        >>> from openvino import opset13
        >>> image = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> weights = np.full((4, 3, 1, 1), 0.5, np.float32)
        >>> features = opset13.convolution(image, weights, [1, 1], [0, 0], [0, 0], [1, 1])
        >>> with redirect_stdout(None):  # NNCF shows its progress
        ...     compressed = compress_weights(openvino.Model([features], [image]))
        >>> {operation.get_element_type().to_string() for operation in compressed.get_ops()} >= {"u8"}
        True
    """
    operations = model.get_ordered_ops()
    names = [*_head(operations), *map(_name, filter(_resizes_image, operations))]
    compressed: openvino.Model = nncf.compress_weights(model, ignored_scope=nncf.IgnoredScope(names=names))
    return compressed


def floating_point_operations(model: openvino.Model) -> nncf.IgnoredScope:
    """Find the operations of an exported model that must not be quantized."""
    operations = model.get_ordered_ops()
    head = _head(operations)
    sensitive = [name for name in map(_name, filter(_needs_floating_point, operations)) if name not in head]
    return nncf.IgnoredScope(names=[*head, *sensitive])


def _head(operations: list[openvino.Node]) -> list[str]:
    """Operations behind the networks: no convolution of features uses what they compute."""
    networks: set[str] = set()
    names = []
    for operation in reversed(operations):
        if _is_of_network(operation) or any(_name(node) in networks for node in _targets(operation)):
            networks.add(_name(operation))
        elif operation.get_type_name() not in _NO_OPERATIONS:
            names.append(_name(operation))
    return names


def _is_of_network(operation: openvino.Node) -> bool:
    """Whether it is a convolution of features or of an image: one of a single channel blurs the anomaly map."""
    return operation.get_type_name() in _CONVOLUTIONS and operation.input_value(0).partial_shape[1] != 1


def _needs_floating_point(operation: openvino.Node) -> bool:
    kind: str = operation.get_type_name()
    if kind == "MVN" or _resizes_image(operation):
        return True
    if kind not in _CONVOLUTIONS | {"MatMul"}:
        return False
    source = operation.input_value(0).get_node()
    while source.get_type_name() in _POOLING:
        source = source.input_value(0).get_node()
    if source.get_type_name() in _ACTIVATIONS:
        return kind == "GroupConvolution"
    reads_image = not _nearest_convolutions([source], _sources)
    return not reads_image or "GroupConvolution" in _nearest_convolutions(_targets(operation), _targets)


def _resizes_image(operation: openvino.Node) -> bool:
    """Whether it multiplies an image that no convolution has seen."""
    return operation.get_type_name() == "MatMul" and not _nearest_convolutions(_sources(operation), _sources)


def _nearest_convolutions(
    operations: list[openvino.Node], step: Callable[[openvino.Node], list[openvino.Node]]
) -> set[str]:
    """Types of the first convolutions on each path from some operations, upstream or downstream."""
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


def _options(model: openvino.Model, images: Sequence[ImageArray]) -> dict[str, Any]:
    return {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(images),
        "ignored_scope": floating_point_operations(model),
    }
