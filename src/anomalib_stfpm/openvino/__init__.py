"""Deployment with OpenVINO: what STFPM needs for an 8-bit model that agrees with the one in floating point."""

from .agreement import Agreement, measure_agreement
from .pictures import PicturesOf
from .quantization import compress_weights, quantize, quantize_with_accuracy_control

__all__ = [
    "Agreement",
    "PicturesOf",
    "compress_weights",
    "measure_agreement",
    "quantize",
    "quantize_with_accuracy_control",
]
