"""How much memory the feature cache may use."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch

from anomalib_stfpm_deploy.machine import JOBS_PER_MACHINE

AUTO = "auto"

_SHARE_OF_FREE_MEMORY = 0.5
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass
class ByteBudget:
    """The bytes of a device's memory that are left for the images of training and validation."""

    device: torch.device
    left: int

    def take(self, each: int, wanted: int) -> int:
        """Reserve room for up to ``wanted`` items of ``each`` bytes, and return how many fit."""
        granted = min(wanted, self.left // each)
        self.left -= granted * each
        return granted


def parse_budget(budget: int | str) -> int | None:
    """Convert a budget such as ``500``, ``"500MB"`` or ``"2 GiB"`` to bytes, and ``"auto"`` to ``None``.

    Raises:
        ValueError: If it is something else, or negative.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", str(budget).strip().lower())
    if isinstance(budget, bool) or (match is None and budget != AUTO):
        msg = f"cache_budget must be 'auto' or a number of bytes such as 500MB or 2GiB, 0 for none: got {budget!r}."
        raise ValueError(msg)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def budgets(budget: int | None, device: torch.device, processes: int = 1) -> list[ByteBudget]:
    """Return what each process may use of the training device's own memory, if it has any, and then of main memory.

    A parsed budget is for both together; ``None`` stands for half of what is free in each. At most half of the free
    memory of the device is used, for training needs the rest. The jobs of a cluster that share a machine share the free
    main memory.
    """
    jobs = int(os.environ.get(JOBS_PER_MACHINE, "1"))
    on_device = int(_SHARE_OF_FREE_MEMORY * torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else 0
    in_main_memory = (int(_SHARE_OF_FREE_MEMORY * free_memory()) // jobs if budget is None else budget) // processes
    if budget is not None:
        on_device = min(on_device, in_main_memory)
        in_main_memory -= on_device
    main = ByteBudget(torch.device("cpu"), in_main_memory)
    return [ByteBudget(device, on_device), main] if on_device else [main]


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the free memory in bytes, within the limit of a container."""
    free: int = psutil.virtual_memory().available
    for limit_file, used_file, reclaimable in _CGROUP_FILES:
        limit, used = cgroup / limit_file, cgroup / used_file
        if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
            statistics = dict(line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
            in_use = int(used.read_text()) - int(statistics.get(reclaimable, 0))
            free = min(free, max(0, int(limit.read_text()) - in_use))
    return free
