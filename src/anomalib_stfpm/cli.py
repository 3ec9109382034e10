"""The command ``anomalib-stfpm``: anomalib's whole command line with this package registered."""

import sys
import traceback

from anomalib.cli.cli import main as anomalib_main

from . import data  # noqa: F401  registers the datamodules


def main() -> None:
    """Run anomalib's command line.

    An error that this package has raised says what is wrong and what would be right: it is printed alone. Any other
    keeps its traceback.
    """
    try:
        anomalib_main()
    except (ValueError, OSError) as error:
        *_, (frame, _) = traceback.walk_tb(error.__traceback__)
        if not frame.f_globals["__name__"].startswith("anomalib_stfpm."):
            raise
        sys.exit(f"anomalib-stfpm: error: {error}")
