"""The command ``anomalib-stfpm``: anomalib's whole command line with this package registered, and its own verbs."""

import sys
import traceback

from anomalib.cli.cli import main as anomalib_main

from anomalib_stfpm.argument_checks import reason_in
from anomalib_stfpm.data.image_files import UnusableFileError
from anomalib_stfpm.registry import prepare_command_line
from anomalib_stfpm_deploy.cli import VERBS as DEPLOYMENT_VERBS
from anomalib_stfpm_deploy.machine import MissingPackageError, load

VERBS = {
    "compare": "anomalib_stfpm.verbs.compare",
    "import-checkpoint": "anomalib_stfpm.verbs.import_checkpoint",
    "reproduce": "anomalib_stfpm.verbs.reproduce",
    "tiled-ensemble": "anomalib_stfpm.verbs.tiled_ensemble",
    "train-all": "anomalib_stfpm.verbs.train_all",
}
"""The module of each verb."""


def main() -> None:
    """Run a verb of this package, or else anomalib's command line.

    An error that this package raises is printed without a traceback.
    """
    arguments = sys.argv[1:]
    prepare_command_line()
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_verbs()
    try:
        if arguments and arguments[0] in VERBS:
            sys.exit(load(VERBS[arguments[0]]).main(arguments[1:]))
        anomalib_main()
    except MissingPackageError as error:
        sys.exit(f"anomalib-stfpm: error: {error}")
    except (ValueError, OSError) as error:
        reason = reason_in(str(error)) or (str(error) if _is_of_this_package(error) else None)
        if reason is None:
            raise
        sys.exit(f"anomalib-stfpm: error: {reason}")


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
    if isinstance(error, UnusableFileError):  # perhaps of a worker process
        return True
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return bool(frame.f_globals["__name__"].startswith(("anomalib_stfpm.", "anomalib_stfpm_deploy.")))
