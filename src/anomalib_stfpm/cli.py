"""The command ``anomalib-stfpm``: anomalib's whole command line with this package registered, and its own verbs."""

import sys
import traceback

from anomalib.cli.cli import main as anomalib_main

from anomalib_stfpm_deploy.cli import VERBS as DEPLOYMENT_VERBS
from anomalib_stfpm_deploy.optional_module import MissingPackageError, load

from . import data  # noqa: F401  registers the datamodules
from .refused_argument import sentence_of
from .registry import honour_seed

VERBS = {
    "compare": "anomalib_stfpm.verbs.compare",
    "import-checkpoint": "anomalib_stfpm.verbs.import_checkpoint",
    "reproduce": "anomalib_stfpm.verbs.reproduce",
    "tiled-ensemble": "anomalib_stfpm.verbs.tiled_ensemble",
}
"""The module of each verb."""


def main() -> None:
    """Run a verb of this package, or else anomalib's command line.

    An error that this package has raised says what is wrong and what would be right: it is printed alone. Any other
    keeps its traceback.
    """
    arguments = sys.argv[1:]
    honour_seed()
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_verbs()
    try:
        if arguments and arguments[0] in VERBS:
            sys.exit(load(VERBS[arguments[0]]).main(arguments[1:]))
        anomalib_main()
    except MissingPackageError as error:
        sys.exit(f"anomalib-stfpm: error: {error}")
    except (ValueError, OSError) as error:
        sentence = sentence_of(str(error)) or (str(error) if _is_of_this_package(error) else None)
        if sentence is None:
            raise
        sys.exit(f"anomalib-stfpm: error: {sentence}")


def _print_verbs() -> None:
    print("Verbs of anomalib-stfpm, each with a --help:\n")
    for name, module in {**VERBS, **DEPLOYMENT_VERBS}.items():
        try:
            summary = (load(module).__doc__ or "").partition(": ")[2].splitlines()[0]
        except MissingPackageError as error:
            summary = str(error)
        print(f"  {name:20}{summary}")
    print("\nAll others are anomalib's:\n", flush=True)


def _is_of_this_package(error: BaseException) -> bool:
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return bool(frame.f_globals["__name__"].startswith(("anomalib_stfpm.", "anomalib_stfpm_deploy.")))
