"""Output folders that hold the results of one configuration only."""

import json
from pathlib import Path
from typing import Any

from anomalib_stfpm_deploy import files

CONFIGURATION_FILE = "configuration.json"


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object of an output folder, ``None`` if the file is missing.

    Raises:
        ValueError: If the file is damaged.
    """
    if not path.is_file():
        return None
    try:
        read: Any = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        read = None
    if not isinstance(read, dict):
        msg = f"'{path}' is damaged, or of something else: remove it, or give another output folder."
        raise ValueError(msg)
    return read


def remember_configuration(folder: Path, now: dict[str, Any]) -> None:
    """Store the configuration of the results in a folder, or compare it with the one stored there.

    Raises:
        ValueError: If the folder holds results of another configuration.
        OSError: If the folder cannot be written to.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     remember_configuration(Path(folder), {"epochs": 1})
        ...     remember_configuration(Path(folder), {"epochs": 1})  # the same again
    """
    path = folder / CONFIGURATION_FILE
    remembered = read_json(path)
    if remembered is None:
        files.write_text(path, json.dumps(now, indent=2) + "\n")
        return
    before, after = _flat(remembered), _flat(now)
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            msg = (
                f"'{folder}' holds results with {key} {before.get(key)!r}, not {after.get(key)!r}: give another output "
                "folder, or the configuration that those were made with."
            )
            raise ValueError(msg)


def _flat(nested: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
