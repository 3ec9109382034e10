"""An exported model, compiled for the CPU."""

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from .exported_model import graph
from .image import Pixels, UnreadableImageError, as_rgb, resize_antialiased

DEVICE = "CPU"
F32, BF16 = "f32", "bf16"
PRECISIONS = (F32, BF16)
"""Precisions of floating point. Layers that are quantized to INT8 stay in INT8."""
LATENCY, THROUGHPUT = "LATENCY", "THROUGHPUT"


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image.

    Args:
        score: Image score; from 0 to 1 with the threshold at 0.5, if the model was exported with thresholds. It may lie
            outside if the network does not clamp.
        is_anomalous: Whether the score is above the threshold; ``None`` for a model without thresholds.
        anomaly_map: Anomaly map of shape ``(H, W)``, on the same scale as the score.

    Example:
        >>> Prediction(score=0.7, is_anomalous=True, anomaly_map=np.zeros((64, 64), np.float32)).is_anomalous
        True
    """

    score: float
    is_anomalous: bool | None
    anomaly_map: npt.NDArray[np.float32]


class Network:
    """A model that anomalib has exported, compiled for the CPU. Threads may share it.

    Args:
        path: The ``.xml`` file, with the ``.bin`` file beside it, or an ``.onnx`` file.
        precision: ``"f32"`` or, if the CPU supports it, ``"bf16"``.
        hint: ``"LATENCY"`` for one image at a time, ``"THROUGHPUT"`` for many at once.
        streams: Number of images that are computed at the same time. By default, the hint decides.
        clamp: Whether normalised scores and maps are clamped to the range from 0 to 1, as they are exported. To compare
            them with another threshold, which may lie above 1, they must not be.
        threads: Number of threads to compute with. By default, as many as the CPU has cores.

    Attributes:
        input_size: Height and width of the model's input; ``None`` if it takes any size.
        is_quantized: Whether some layers compute in INT8.
        thresholds: What the model compares its scores and maps with.

    Raises:
        FileNotFoundError: If a file of the model is missing.
        ValueError: If it is not a model of anomalib, an argument is not valid, or the CPU does not support the
            precision.

    Example:
        >>> Network("nothing.xml")
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'nothing.xml', a file of the model, does not exist.
    """

    def __init__(
        self,
        path: Path | str,
        precision: str = F32,
        hint: str = LATENCY,
        streams: int | None = None,
        *,
        clamp: bool = True,
        threads: int | None = None,
    ) -> None:
        self.path = Path(path)
        self.precision = precision
        if precision not in PRECISIONS:
            msg = f"precision must be one of {', '.join(PRECISIONS)}: got '{precision}'."
            raise ValueError(msg)
        if precision not in precisions_of_this_machine():
            msg = "This CPU does not compute in bf16: use f32."
            raise ValueError(msg)
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": hint}
        if streams is not None:
            if streams < 1:
                msg = f"The number of streams must be at least 1: got {streams}."
                raise ValueError(msg)
            settings["NUM_STREAMS"] = streams
        if threads is not None:
            settings["INFERENCE_NUM_THREADS"] = threads
        model = read_model(self.path)
        self.thresholds = graph.thresholds_of(model)
        if not clamp:
            graph.remove_clamps(model)
        _, _, height, width = model.input(0).partial_shape
        model.reshape({0: openvino.PartialShape([1, 3, height, width])})
        is_fixed = height.is_static and width.is_static
        self.input_size = (height.get_length(), width.get_length()) if is_fixed else None
        self.is_quantized = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
        self._outputs = [name for output in model.outputs for name in output.get_names()]
        self.compiled = core().compile_model(model, DEVICE, settings)
        # OpenVINO creates its table of types at the first use. Two threads that do so at once deadlock.
        openvino.Type.f32.to_dtype()
        self._of_this_thread = threading.local()

    @property
    def requests(self) -> int:
        """Number of images to compute at once to keep the CPU busy."""
        return int(self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def prepare(self, image: npt.NDArray[Any]) -> Pixels:
        """Resize an image to the model's input.

        Args:
            image: A grey image of shape ``(H, W)`` or ``(H, W, 1)``, or an image in RGB or RGBA of shape ``(H, W, 3)``
                or ``(H, W, 4)``. OpenCV's frames are in BGR: give ``frame[..., ::-1]``. Values of 8 bits are divided by
                255, those of 16 bits by 65535, and floating-point values must be from 0 to 1.

        Returns:
            The pixels, of shape ``(1, 3, *input_size)``, with values from 0 to 1. They keep the image's size if the
            model takes any.

        Raises:
            ValueError: If the image has another shape, or values of another type or range.
        """
        try:
            image = as_rgb(np.asarray(image))
        except UnreadableImageError as error:
            msg = f"The image cannot be used: {error}."
            raise ValueError(msg) from error
        return resize_antialiased(image, self.input_size or (image.shape[0], image.shape[1]))

    def predict(self, pixels: Pixels) -> Prediction:
        """Predict score, label and anomaly map of an image.

        Args:
            pixels: The result of :meth:`prepare`, of shape ``(1, 3, H, W)``.

        Returns:
            The prediction.
        """
        if not hasattr(self._of_this_thread, "request"):
            self._of_this_thread.request = self.compiled.create_infer_request()
        request: openvino.InferRequest = self._of_this_thread.request
        request.start_async({0: pixels}, share_inputs=True)
        request.wait()
        label = bool(request.get_tensor("pred_label").data.flat[0]) if "pred_label" in self._outputs else None
        anomaly_map = np.array(request.get_tensor("anomaly_map").data[0, 0], np.float32)
        return Prediction(float(request.get_tensor("pred_score").data.flat[0]), label, anomaly_map)


def precisions_of_this_machine() -> list[str]:
    """Return ``"f32"`` and, if the CPU supports it, ``"bf16"``.

    Example:
        >>> "f32" in precisions_of_this_machine()
        True
    """
    has_bf16 = "BF16" in core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return [F32, BF16] if has_bf16 else [F32]


def model_files(path: Path) -> list[Path]:
    """Return the files of a model: an ``.xml`` or ``.onnx`` file and, if separate, the file with its weights.

    Example:
        >>> [path.name for path in model_files(Path("exported/model.xml"))]
        ['model.xml', 'model.bin']
    """
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return [path, weights] if path.suffix == ".xml" or weights.is_file() else [path]


def model_digest(contents: Iterable[bytes]) -> str:
    """Return a SHA-256 of what the files of a model hold, which tells whether two models are the same.

    Example:
        >>> model_digest([b"net", b"work"])[:8]
        '3009be76'
    """
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    return digest.hexdigest()


@cache
def core() -> openvino.Core:
    """Return the one core of this process.

    Example:
        >>> DEVICE in core().available_devices
        True
    """
    # A single one for the whole process. Each core installs a signal stack, and restores the previous core's when it
    # is deleted. If that core was deleted before, the next Ctrl-C crashes Python.
    return openvino.Core()


def read_model(path: Path) -> openvino.Model:
    """Read an exported model.

    Raises:
        FileNotFoundError: If a file of the model is missing.
        ValueError: If it is not a model of anomalib.

    Example:
        >>> read_model(Path("model.pt"))
        Traceback (most recent call last):
        ...
        ValueError: A model is an .xml or an .onnx file: got 'model.pt'.
    """
    if path.suffix not in (".xml", ".onnx"):
        msg = f"A model is an .xml or an .onnx file: got '{path}'."
        raise ValueError(msg)
    for part in model_files(path):
        if not part.is_file():
            msg = f"'{part}', a file of the model, does not exist."
            raise FileNotFoundError(msg)
    try:
        model: openvino.Model = core().read_model(path)
    except RuntimeError as error:
        weights = f"{path.name}.data"
        if path.suffix == ".onnx" and weights.encode() in path.read_bytes():
            msg = f"'{path.with_name(weights)}' does not exist: copy it too, for it holds the weights of '{path}'."
            raise FileNotFoundError(msg) from error
        msg = f"'{path}' cannot be read as a model: export it again."
        raise ValueError(msg) from error
    if path.suffix == ".onnx":
        graph.fuse_clips(model)
    names = {name for output in model.outputs for name in output.get_names()}
    shape = model.input(0).partial_shape if len(model.inputs) == 1 else None
    if not {"pred_score", "anomaly_map"} <= names or shape is None or shape.rank.get_length() != 4:
        msg = f"'{path}' is not a model that finds defects in images: it must give pred_score and anomaly_map."
        raise ValueError(msg)
    return model
