"""What figures were measured on."""

import os
import platform
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("anomalib-stfpm", "openvino", "numpy", "opencv-python-headless", "opencv-python")


def processor() -> str:
    """Name the processor.

    Returns:
        Its name, as the system knows it.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def describe(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """Describe the machine and the software that is running.

    Args:
        packages: Names of the packages whose versions matter.

    Returns:
        Versions by package, for those that are installed, Python's version, operating system, processor and its number
        of cores.

    Example:
        >>> sorted(describe())
        ['cores', 'cpu', 'platform', 'python', 'versions']
    """
    return {
        "versions": {name: found for name in packages if (found := _version(name)) is not None},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": processor(),
        "cores": os.cpu_count(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def resident_bytes() -> int | None:
    """Measure the memory of this process.

    Returns:
        Bytes in memory; ``None`` where the system does not say.
    """
    return _bytes_of_this_process("VmRSS")


def peak_bytes() -> int | None:
    """Measure the most memory that this process has ever had.

    Returns:
        Bytes in memory; ``None`` where the system does not say.
    """
    return _bytes_of_this_process("VmHWM")


def _bytes_of_this_process(field: str) -> int | None:
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    lines = status.read_text(encoding="utf-8").splitlines()
    found = [line for line in lines if line.startswith(f"{field}:")]
    return int(found[0].split()[1]) * 1024 if found else None
