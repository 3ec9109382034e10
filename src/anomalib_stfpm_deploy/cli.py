"""The command ``anomalib-stfpm``: verbs that run without torch, and all others in ``anomalib_stfpm``."""

import os
import sys
from types import ModuleType

# Before NumPy and OpenCV are imported. Pictures are resized by several threads, each of which would start more, and
# what cannot be read is listed at the end, with one reason.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
# As many pixels as Pillow decodes in training: a small file may claim to hold billions.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2 * 89_478_485))

from . import infer, timing
from .exit_codes import REFUSED

VERBS: dict[str, ModuleType] = {"infer": infer, "time": timing}


def main() -> None:
    """Run a verb of this package, or else leave it to ``anomalib_stfpm``."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in VERBS:
        try:
            from anomalib_stfpm.cli import main as main_with_torch
        except ModuleNotFoundError as error:
            print(
                f"anomalib-stfpm: error: only {' and '.join(VERBS)} do without {error.name}: install anomalib-stfpm "
                "with what it depends on.",
                file=sys.stderr,
            )
            sys.exit(REFUSED)
        main_with_torch()
        return
    try:
        sys.exit(VERBS[arguments[0]].main(arguments[1:]))
    except (ValueError, OSError) as error:
        print(f"anomalib-stfpm: error: {error}", file=sys.stderr)
        sys.exit(REFUSED)
