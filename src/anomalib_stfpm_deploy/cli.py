"""The command ``anomalib-stfpm``: verbs that run without torch, and all others in ``anomalib_stfpm``."""

import os
import sys

# Before NumPy and OpenCV are imported. Pictures are resized by several threads, each of which would start more, and
# what cannot be read is listed at the end, with one reason.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
# As many pixels as Pillow decodes in training: a small file may claim to hold billions.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2 * 89_478_485))

from .exit_codes import REFUSED
from .optional_module import MissingPackageError, load

VERBS = {"infer": "anomalib_stfpm_deploy.infer", "time": "anomalib_stfpm_deploy.timing"}
"""The module of each verb."""


def main() -> None:
    """Run a verb of this package, or else leave it to ``anomalib_stfpm``."""
    arguments = sys.argv[1:]
    try:
        if arguments and arguments[0] in VERBS:
            sys.exit(load(VERBS[arguments[0]]).main(arguments[1:]))
        main_with_torch = load("anomalib_stfpm.cli").main
    except (MissingPackageError, ValueError, OSError) as error:
        print(f"anomalib-stfpm: error: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    main_with_torch()
