"""Finding defects with an exported model: OpenVINO, NumPy and OpenCV, without torch or anomalib.

A package of its own, for importing ``anomalib_stfpm`` imports torch. ``network`` has the model, ``picture`` reads
pictures.
"""
