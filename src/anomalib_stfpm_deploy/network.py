"""An exported model, compiled for the CPU."""

import hashlib
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino

from .picture import Picture
from .resize import Pixels, resize_antialiased

DEVICE = "CPU"
F32, BF16 = "f32", "bf16"
PRECISIONS = (F32, BF16)
"""What floating point is computed in. It says nothing of the layers that INT8 has quantized."""
LATENCY, THROUGHPUT = "LATENCY", "THROUGHPUT"

_CHUNK = 2**20


@dataclass(frozen=True)
class Prediction:
    """What a model says of a picture.

    Args:
        score: Image score; from 0 to 1 with the threshold at 0.5, if the model was exported with thresholds.
        is_anomalous: Whether the score is above the threshold; ``None`` for a model without thresholds.
        anomaly_map: Anomaly map of shape ``(H, W)``, with values as the score's.

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
        precision: ``"f32"`` or, where the CPU has it, ``"bf16"``.
        hint: ``"LATENCY"`` for one picture at a time, ``"THROUGHPUT"`` for many at once.
        streams: Number of pictures that are computed at the same time; what the hint asks for, unless given.

    Attributes:
        input_size: Height and width of the pictures that it takes; ``None`` if it takes any.
        is_quantized: Whether it computes in 8 bits too.

    Raises:
        FileNotFoundError: If a file of the model is missing.
        ValueError: If it is not a model of anomalib, or an argument is not valid, or the CPU lacks the precision.

    Example:
        >>> Network("nothing.xml")
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'nothing.xml', a file of the model, does not exist.
    """

    def __init__(self, path: Path | str, precision: str = F32, hint: str = LATENCY, streams: int | None = None) -> None:
        self.path = Path(path)
        self.precision = precision
        core = _core()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": _checked(precision), "PERFORMANCE_HINT": hint}
        if streams is not None:
            if streams < 1:
                msg = f"The number of streams must be at least 1: got {streams}."
                raise ValueError(msg)
            settings["NUM_STREAMS"] = streams
        model = _read(core, self.path)
        self.input_size = _one_picture(model)
        self.is_quantized = any(operation.get_type_name() == "FakeQuantize" for operation in model.get_ops())
        self._outputs = [name for output in model.outputs for name in output.get_names()]
        self.compiled = core.compile_model(model, DEVICE, settings)
        # OpenVINO makes its table of types at the first use, and two threads that do so wait for each other forever.
        openvino.Type.f32.to_dtype()
        self._of_this_thread = threading.local()

    @property
    def requests(self) -> int:
        """Number of pictures at once that keep the CPU busy."""
        return int(self.compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def prepare(self, picture: Picture) -> Pixels:
        """Make of a picture what the model takes.

        Args:
            picture: A picture of shape ``(H, W, 3)``.

        Returns:
            It, of shape ``(1, 3, *input_size)``, with values from 0 to 1; of its own size if the model takes any.
        """
        return resize_antialiased(picture, self.input_size or (picture.shape[0], picture.shape[1]))

    def predict(self, pixels: Pixels) -> Prediction:
        """Find defects in a picture.

        Args:
            pixels: What :meth:`prepare` has made of the picture, of shape ``(1, 3, H, W)``.

        Returns:
            Score, label and anomaly map.
        """
        request = self._request()
        request.start_async({0: pixels}, share_inputs=True)
        request.wait()
        label = bool(request.get_tensor("pred_label").data.flat[0]) if "pred_label" in self._outputs else None
        anomaly_map = np.array(request.get_tensor("anomaly_map").data[0, 0], np.float32)
        return Prediction(float(request.get_tensor("pred_score").data.flat[0]), label, anomaly_map)

    def _request(self) -> openvino.InferRequest:
        """The request of this thread: one at a time may use it."""
        if not hasattr(self._of_this_thread, "request"):
            self._of_this_thread.request = self.compiled.create_infer_request()
        request: openvino.InferRequest = self._of_this_thread.request
        return request


def precisions_of_this_machine() -> list[str]:
    """List the precisions that the CPU computes in.

    Returns:
        ``"f32"`` and, where the CPU has it, ``"bf16"``.

    Example:
        >>> "f32" in precisions_of_this_machine()
        True
    """
    has_bf16 = "BF16" in _core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES")
    return [F32, BF16] if has_bf16 else [F32]


@cache
def _core() -> openvino.Core:
    # One, for as long as the process lives: each gives signals a stack of its own and at its end puts back that of the
    # one before, which may have ended earlier. The next Ctrl-C would then crash Python.
    return openvino.Core()


def files_of(path: Path) -> list[Path]:
    """List the files of a model.

    Args:
        path: Its ``.xml`` or ``.onnx`` file.

    Returns:
        The file, and the one with the weights; those of an ONNX model may be in its file.

    Example:
        >>> [path.name for path in files_of(Path("exported/model.xml"))]
        ['model.xml', 'model.bin']
    """
    weights = path.with_suffix(".bin") if path.suffix == ".xml" else path.with_name(f"{path.name}.data")
    return [path, weights] if path.suffix == ".xml" or weights.is_file() else [path]


def digest_of(path: Path) -> str:
    """Tell a model from any other.

    Args:
        path: Its ``.xml`` or ``.onnx`` file.

    Returns:
        SHA-256 of its files, as hexadecimal digits.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     path = Path(folder, "model.onnx")
        ...     _ = path.write_bytes(b"all of it")
        ...     digest_of(path)[:8]
        '07630777'
    """
    digest = hashlib.sha256()
    for part in files_of(path):
        with part.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _checked(precision: str) -> str:
    if precision not in PRECISIONS:
        msg = f"precision must be one of {', '.join(PRECISIONS)}: got '{precision}'."
        raise ValueError(msg)
    if precision not in precisions_of_this_machine():
        msg = "This CPU does not compute in bf16: use f32."
        raise ValueError(msg)
    return precision


def _read(core: openvino.Core, path: Path) -> openvino.Model:
    if path.suffix not in (".xml", ".onnx"):
        msg = f"A model is an .xml or an .onnx file: got '{path}'."
        raise ValueError(msg)
    for part in files_of(path):
        if not part.is_file():
            msg = f"'{part}', a file of the model, does not exist."
            raise FileNotFoundError(msg)
    try:
        model: openvino.Model = core.read_model(path)
    except RuntimeError as error:
        msg = f"'{path}' cannot be read as a model: export it again."
        raise ValueError(msg) from error
    names = {name for output in model.outputs for name in output.get_names()}
    shape = model.input(0).partial_shape if len(model.inputs) == 1 else None
    if not {"pred_score", "anomaly_map"} <= names or shape is None or shape.rank.get_length() != 4:
        msg = f"'{path}' is not a model that finds defects in pictures: it must give pred_score and anomaly_map."
        raise ValueError(msg)
    return model


def _one_picture(model: openvino.Model) -> tuple[int, int] | None:
    """Let the model take one picture at a time; the height and width that it takes, if they are fixed."""
    _, _, height, width = model.input(0).partial_shape
    model.reshape({0: openvino.PartialShape([1, 3, height, width])})
    return (height.get_length(), width.get_length()) if height.is_static and width.is_static else None
