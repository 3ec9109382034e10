"""The command ``anomalib-stfpm``: anomalib's whole command line with this package registered."""

from anomalib.cli.cli import main

from . import data  # noqa: F401  registers the datamodules

__all__ = ["main"]
