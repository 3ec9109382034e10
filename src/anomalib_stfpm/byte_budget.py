"""How many bytes may be used to remember what does not change."""

import re
from dataclasses import dataclass
from pathlib import Path

import psutil

AUTO = "auto"

_SHARE_OF_FREE_MEMORY = 0.5
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
_CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass
class ByteBudget:
    """A number of bytes from which several takers take what they need.

    Args:
        left: Number of bytes that nobody has taken.
    """

    left: int

    def take(self, each: int, wanted: int) -> int:
        """Take room for things of one size.

        Args:
            each: Bytes of one of them.
            wanted: How many there are.

        Returns:
            How many there is room for.

        Example:
            >>> ByteBudget(100).take(30, 5)
            3
        """
        granted = min(wanted, self.left // each)
        self.left -= granted * each
        return granted


def parse_budget(budget: int | str) -> int | None:
    """Read a byte budget.

    Args:
        budget: A number of bytes, also with a unit such as ``"500MB"`` or ``"2 GiB"``, or ``"auto"``.

    Returns:
        The number of bytes; ``None`` for ``"auto"``.

    Raises:
        ValueError: If it is something else, or negative.

    Example:
        >>> parse_budget("1.5 GB")
        1500000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]i?|)b?", str(budget).strip().lower())
    if isinstance(budget, bool) or (match is None and budget != AUTO):
        msg = f"cache_budget must be 'auto' or a number of bytes such as 500MB or 2GiB, 0 for none: got {budget!r}."
        raise ValueError(msg)
    return int(float(match[1]) * _UNITS[match[2]]) if match else None


def bytes_to_use(budget: int | None, processes: int = 1) -> int:
    """Say how many bytes one process may use.

    Args:
        budget: What :func:`parse_budget` returned. ``None`` takes half of the memory that is free now.
        processes: Number of processes on this machine that share the budget.

    Returns:
        A number of bytes.

    Example:
        >>> bytes_to_use(parse_budget("2 GB"), processes=4)
        500000000
    """
    return (int(_SHARE_OF_FREE_MEMORY * free_memory()) if budget is None else budget) // processes


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Say how much memory is free, in bytes, to this process: a container may have less than the machine.

    Args:
        cgroup: Where Linux says what a container is limited to.

    Returns:
        A number of bytes.
    """
    free: int = psutil.virtual_memory().available
    for limit_file, used_file, reclaimable in _CGROUP_FILES:
        limit, used = cgroup / limit_file, cgroup / used_file
        if limit.is_file() and used.is_file() and limit.read_text().strip() != "max":
            statistics = dict(line.split() for line in (limit.parent / "memory.stat").read_text().splitlines())
            in_use = int(used.read_text()) - int(statistics.get(reclaimable, 0))
            free = min(free, max(0, int(limit.read_text()) - in_use))
    return free
