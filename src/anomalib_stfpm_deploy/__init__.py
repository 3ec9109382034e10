"""Inference with exported models on OpenVINO, NumPy and OpenCV, without torch or anomalib.

A package of its own, because importing ``anomalib_stfpm`` imports torch.
"""
