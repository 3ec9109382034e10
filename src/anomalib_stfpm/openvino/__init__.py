"""Deployment with OpenVINO: quantize an exported STFPM model to 8 bits, and measure how far it then agrees.

The modules are imported when a name is first used, so training needs neither OpenVINO nor NNCF.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomalib_stfpm.openvino.agreement import Agreement, measure_agreement
    from anomalib_stfpm.openvino.calibration_images import ImagesOf
    from anomalib_stfpm.openvino.quantization import compress_weights, quantize, quantize_with_accuracy_control

__all__ = [
    "Agreement",
    "ImagesOf",
    "compress_weights",
    "measure_agreement",
    "quantize",
    "quantize_with_accuracy_control",
]

_MODULES = {"Agreement": "agreement", "measure_agreement": "agreement", "ImagesOf": "calibration_images"}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    if name not in __all__:
        msg = f"module '{__name__}' has no attribute '{name}'"
        raise AttributeError(msg)
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'quantization')}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
