"""The commands that the README shows."""

import re
import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.rpartition("&& ")[2].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
"""All of them, each without what installs the package before it."""


def command(start: str) -> list[str]:
    """Return the arguments of the only command of the README that starts so, to be run with this Python."""
    (found,) = [shlex.split(one) for one in COMMANDS if one.startswith(start)]
    return [sys.executable, *found[1:]] if found[0] == "python" else found
