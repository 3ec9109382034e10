"""What a result was measured with: versions, processor, revision of the source."""

import subprocess
from pathlib import Path
from typing import Any

import torch

from anomalib_stfpm_deploy import machine

PACKAGES = ("anomalib-stfpm", "anomalib", "torch", "torchvision", "lightning", "timm", "torchmetrics", "openvino")


def describe() -> dict[str, Any]:
    """Describe the machine and the software that is running.

    Returns:
        Versions by package, Python's version, operating system, processor, number of cores and of torch's threads, and
        the git revision of the source, ``None`` where it does not run from a git checkout.

    Example:
        >>> sorted(describe())
        ['cores', 'cpu', 'git_revision', 'platform', 'python', 'threads', 'versions']
    """
    return {
        **machine.describe(PACKAGES),
        "threads": torch.get_num_threads(),
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The revision, with a plus where tracked files have been changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # A folder that lies in somebody's checkout without being part of it has no revision.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        revision = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.strip() + ("+" if changed.stdout else "")
