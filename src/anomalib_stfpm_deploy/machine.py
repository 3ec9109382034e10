"""The machine that runs this: its processor, memory and installed packages."""

import os
import platform
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("anomalib-stfpm", "openvino", "numpy", "opencv-python-headless", "opencv-python")
JOBS_PER_MACHINE = "ANOMALIB_STFPM_JOBS_PER_MACHINE"
"""Environment variable that tells a job of a cluster how many of its kind may share its machine and memory."""

_EXTRAS = {
    **dict.fromkeys(("nncf", "onnx", "onnxscript", "openvino"), "openvino"),
    **dict.fromkeys(("ray", "pyarrow"), "cluster"),
}
"""The extra that has a package."""


class MissingPackageError(ImportError):
    """A package is missing. The message says how to install it."""


def load(module: str) -> ModuleType:
    """Import a module.

    Raises:
        MissingPackageError: If it needs a package that is not installed.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _EXTRAS:
            msg = f"This needs {package}: pip install 'anomalib-stfpm[{_EXTRAS[package]}]'."
        else:
            msg = (
                f"Only verbs for exported models do without {package}: install anomalib-stfpm with what it depends on."
            )
        raise MissingPackageError(msg) from error


def describe(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Describe the machine, and the versions of Python and of those packages that are installed."""
    return {
        "versions": {name: found for name in packages if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def resident_bytes() -> int | None:
    """Return the memory that this process uses now; ``None`` where ``/proc`` is missing."""
    return _process_bytes("VmRSS")


def peak_bytes() -> int | None:
    """Return the most memory that this process has used so far; ``None`` where ``/proc`` is missing."""
    return _process_bytes("VmHWM")


def _process_bytes(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    for line in status.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None
