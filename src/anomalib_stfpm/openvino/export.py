"""Export of a trained model to PyTorch, ONNX and OpenVINO, quantized if asked for."""

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from anomalib import TaskType
from anomalib.data import AnomalibDataModule
from anomalib.data.utils import ValSplitMode
from anomalib.deploy import CompressionType, ExportType
from anomalib.metrics import F1Score
from anomalib.models.components.base.export_mixin import ExportMixin
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from torchmetrics import Metric

from anomalib_stfpm.components.pre_processor import fixed_size
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.machine import load

if TYPE_CHECKING:
    import openvino

logger = logging.getLogger(__name__)

ANY_SIZE = (-1, -1)
"""The ``input_size`` of a model that takes images of any size."""

ONNX_OPSET = 18  # torch's exporter writes it, and fails to convert down to anomalib's 14

_SMALLEST = 64  # pixels, of an image for a model of any size that does not resize

# For Intel's Model API: the model takes RGB images with values from 0 to 1.
_FOR_MODEL_API = {"model_type": "AnomalyDetection", "scale_values": "255.0 255.0 255.0"}

_RESIZE = "Resize images to the input with antialiasing. Model API does not: export with input_size (-1, -1) for it."

_QUANTIZED = {CompressionType.INT8_PTQ, CompressionType.INT8_ACQ}


class StfpmExport(ExportMixin):
    """Export for ``anomalib export`` and ``Engine.export``.

    Files and outputs are those of anomalib. The exported model takes batches of any size, with values from 0 to 1, and
    images of one size, unless ``input_size`` is ``(-1, -1)``: then it resizes images as training did.
    """

    pre_processor: Any
    post_processor: Any

    def to_torch(self, export_root: Path | str, model_file_name: str = "model") -> Path:
        """Export a trained model to PyTorch, see anomalib's ``ExportMixin.to_torch``."""
        self._require_trained_and_validated()
        with self._temporary_folder() as folder, self._without_gradients():
            written = super().to_torch(folder, model_file_name)
            return _move(written, export_root, ExportType.TORCH)

    def to_onnx(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> Path:
        """Export a trained model to ONNX, see anomalib's ``ExportMixin.to_onnx``.

        ``input_size`` is the height and width of the images that the exported model takes: ``None`` for the size that
        the pre-processor resizes to, ``(-1, -1)`` for any size. ``kwargs`` are arguments of ``torch.onnx.export``.
        """
        self._require_trained_and_validated()
        load("onnx")
        load("onnxscript")
        kwargs.setdefault("opset_version", ONNX_OPSET)
        kwargs.setdefault("verbose", False)
        kwargs.setdefault("external_data", False)  # one file, which cannot be left behind
        size = self._size_to_export(input_size)
        if size is None and self._resized_to is None:
            model: Any = self.model
            if model.tiler is not None:
                msg = "A model that sees tiles is exported for images of one size: give input_size."
                raise ValueError(msg)
            # anomalib traces with images of 2 x 2 pixels, of which the deepest features have none.
            height, width = (torch.export.Dim(name, min=_SMALLEST) for name in ("height", "width"))
            kwargs.setdefault("dynamic_shapes", ({0: torch.export.Dim("batch_size"), 2: height, 3: width},))
        with self._temporary_folder() as folder:
            written = super().to_onnx(folder, model_file_name, size, **kwargs)
            return _move(written, export_root, ExportType.ONNX)

    def to_openvino(
        self,
        export_root: Path | str,
        model_file_name: str = "model",
        input_size: tuple[int, int] | None = None,
        compression_type: CompressionType | str | None = None,
        datamodule: AnomalibDataModule | None = None,
        metric: Metric | None = None,
        task: TaskType | None = None,
        max_drop: float = 0.01,
        ov_kwargs: dict[str, Any] | None = None,
        onnx_kwargs: dict[str, Any] | None = None,
    ) -> Path:
        """Export a trained model to OpenVINO, see anomalib's ``ExportMixin.to_openvino``.

        ``FP16`` and ``INT8`` store weights with fewer bits. ``INT8_PTQ`` computes teacher and student in 8 bits, and
        ``INT8_ACQ`` does so except where ``metric``, the image F1 by default, would drop by more than ``max_drop`` on
        the validation images. Both calibrate with normal training images of ``datamodule``. The agreement with the
        floating-point model on the test images is logged and written to ``<model_file_name>.agreement.json`` beside
        the ``.xml`` file. A compression may also be given as text, such as ``"int8_ptq"``. See :meth:`to_onnx` for
        ``input_size``.
        """
        del task
        openvino: Any = load("openvino")
        if compression_type is not None:
            compression_type = _compression(compression_type)
        if compression_type in _QUANTIZED and datamodule is None:
            msg = f"{compression_type.name} calibrates with normal training images: give the datamodule (--data)."
            raise ValueError(msg)
        if not 0 <= max_drop <= 1:
            msg = f"max_drop must be between 0 and 1: got {max_drop}."
            raise ValueError(msg)
        with self._temporary_folder() as folder:
            onnx = self.to_onnx(folder, model_file_name, input_size, **(onnx_kwargs or {}))
            model = openvino.convert_model(onnx, **(ov_kwargs or {}))
            agreement = None
            if datamodule is not None and compression_type in _QUANTIZED:
                model, agreement = self._quantized(model, compression_type, datamodule, metric, max_drop)
            elif compression_type is CompressionType.INT8:
                model = load("anomalib_stfpm.openvino.quantization").compress_weights(model)
            for name, value in _FOR_MODEL_API.items():
                model.set_rt_info(value, ["model_info", name])
            if self._size_to_export(input_size) is not None:
                model.set_rt_info(_RESIZE, ["anomalib_stfpm", "resize"])
            written = Path(folder) / ExportType.OPENVINO.value / f"{model_file_name}.xml"
            openvino.save_model(model, written, compress_to_fp16=compression_type is CompressionType.FP16)
            moved = _move(written, export_root, ExportType.OPENVINO)
        report = moved.with_suffix(".agreement.json")
        if agreement is None:
            report.unlink(missing_ok=True)  # of an earlier export to this folder
        else:
            files.write_text(report, json.dumps(agreement, indent=2) + "\n")
        return moved

    def _quantized(
        self,
        model: "openvino.Model",
        compression_type: CompressionType,
        datamodule: AnomalibDataModule,
        metric: Metric | None,
        max_drop: float,
    ) -> tuple["openvino.Model", dict[str, Any]]:
        load("nncf")
        from anomalib_stfpm.openvino import ImagesOf, measure_agreement, quantize, quantize_with_accuracy_control

        transform = self.pre_processor.transform if isinstance(self.pre_processor, PreProcessor) else None
        images = ImagesOf(datamodule, transform, model)
        if compression_type is CompressionType.INT8_PTQ:
            quantized = quantize(model, images.calibration())
        else:
            if datamodule.val_split_mode == ValSplitMode.SAME_AS_TEST:
                logger.warning("Validation holds the test images: INT8_ACQ uses them to choose what to quantize.")
            metric = metric or F1Score(fields=["pred_label", "gt_label"])
            validation = list(images.validation())
            if {held_out.label for held_out in validation} != {False, True}:
                msg = (
                    "INT8_ACQ needs validation images with and without defects to measure on: "
                    "use INT8_PTQ, which needs none."
                )
                raise ValueError(msg)
            quantized = quantize_with_accuracy_control(model, images.calibration(), validation, metric, max_drop)
        agreement = measure_agreement(model, quantized, images.test())
        agreement.log()
        return quantized, agreement.as_dict()

    @property
    def _resized_to(self) -> tuple[int, int] | None:
        return fixed_size(getattr(self.pre_processor, "transform", None))

    def _size_to_export(self, given: tuple[int, int] | None) -> tuple[int, int] | None:
        """Return the size of the images; ``None`` for any."""
        if given is None:
            return self._resized_to
        if tuple(given) == ANY_SIZE:
            return None
        if len(given) != 2 or min(given) < 1:
            msg = (
                "input_size must be a height and a width in pixels, or -1 and -1 for images of any size: "
                f"got {list(given)}."
            )
            raise ValueError(msg)
        return given

    @contextmanager
    def _without_gradients(self) -> Iterator[None]:
        """Export parameters that need no gradients, for an inferencer converts outputs to NumPy."""
        module: Any = self
        trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    @contextmanager
    def _temporary_folder(self) -> Iterator[str]:
        """Make a temporary folder, and raise a clear error if the disk is full.

        The errors of torch, ONNX and OpenVINO do not say so. Writing as many bytes as the model has does.
        """
        with TemporaryDirectory() as folder:
            try:
                yield folder
            except (OSError, RuntimeError):
                model: Any = self.model
                size = sum(value.nbytes for value in model.state_dict().values())
                files.write_bytes(Path(folder, "model_size"), bytes(size), durable=False)
                raise

    def _require_trained_and_validated(self) -> None:
        model: Any = self.model
        model.require_teacher("export")
        processor = self.post_processor
        if not isinstance(processor, PostProcessor):
            return
        needed = [processor.image_threshold] if processor.enable_thresholding else []
        needed += [processor.image_min, processor.image_max] if processor.enable_normalization else []
        if any(value.isnan() for value in needed):
            msg = (
                "Cannot export a model without thresholds: this one was never validated. Train it with a validation "
                "set, or call Engine.validate with it and then its to_openvino."
            )
            raise ValueError(msg)


def _compression(given: CompressionType | str) -> CompressionType:
    try:
        return CompressionType(given.lower())
    except (AttributeError, ValueError):
        msg = f"compression_type must be one of {', '.join(one.value for one in CompressionType)}: got {given!r}."
        raise ValueError(msg) from None


def _move(written: Path, export_root: Path | str, export_type: ExportType) -> Path:
    """Move an exported file and those beside it to anomalib's folder, each whole or not at all."""
    target = Path(export_root) / "weights" / export_type.value
    with ExitStack() as stack:
        for source in sorted(path for path in written.parent.iterdir() if path.is_file()):
            shutil.copyfile(source, stack.enter_context(files.replacing(target / source.name)))
    return target / written.name
