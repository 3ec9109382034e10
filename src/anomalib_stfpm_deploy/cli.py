"""The command ``anomalib-stfpm``: runs the verbs for exported models here, all others in ``anomalib_stfpm``."""

import argparse
import os
import sys
from typing import NoReturn

from .machine import MissingPackageError, load
from .quiet import hide_known_messages

VERBS = {
    "infer": "anomalib_stfpm_deploy.infer.verb",
    "model-repository": "anomalib_stfpm_deploy.exported_model.model_repository",
    "threshold": "anomalib_stfpm_deploy.exported_model.threshold",
    "time": "anomalib_stfpm_deploy.timing",
}
"""The module of each verb."""

REFUSED = 120
"""Exit code of a command that is wrong. Smaller ones are numbers of unreadable images."""

INTERRUPTED = 130
"""Exit code after Ctrl-C. The same command resumes."""


class Parser(argparse.ArgumentParser):
    """A parser that exits with ``REFUSED``, because argparse's own 2 would mean two unreadable images."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong with the arguments and exit."""
        self.exit(REFUSED, f"{self.prog}: error: {message}\n")


def configure_libraries() -> None:
    """Set environment variables that NumPy and OpenCV read when they are imported."""
    # Several threads resize images. Each of them would start more.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Unreadable images are listed at the end, with the reason.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    # A small file may claim to have billions of pixels, and many are decoded at the same time.
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2 * 89_478_485))


def main() -> None:
    """Run a verb of this package, or pass the command to ``anomalib_stfpm``."""
    configure_libraries()
    arguments = sys.argv[1:]
    try:
        if arguments and arguments[0] in VERBS:
            sys.exit(load(VERBS[arguments[0]]).main(arguments[1:]))
        hide_known_messages()  # before anomalib is imported, which prints some of them
        main_with_torch = load("anomalib_stfpm.cli").main
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except (MissingPackageError, ValueError, OSError) as error:
        print(f"anomalib-stfpm: error: {error}", file=sys.stderr)
        sys.exit(REFUSED)
    main_with_torch()
