"""The machine and the software that produced a result."""

import subprocess
from pathlib import Path
from typing import Any

import torch

from anomalib_stfpm_deploy import machine

PACKAGES = ("anomalib-stfpm", "anomalib", "torch", "torchvision", "lightning", "timm", "torchmetrics", "openvino")


def describe() -> dict[str, Any]:
    """Describe machine, package versions, torch threads and, in a git checkout, the revision of the source."""
    return {**machine.describe(PACKAGES), "threads": torch.get_num_threads(), "git_revision": _git_revision()}


def _git_revision() -> str | None:
    """Return the commit, with a plus if tracked files have changed since."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        # An installation inside another project's checkout is not tracked by it, and has no revision.
        subprocess.run([*git, "ls-files", "--error-unmatch", Path(__file__).name], check=True, capture_output=True)
        revision = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return revision.strip() + ("+" if changed.stdout else "")
