"""The commands that the README and the pages of the documentation show."""

import re
import shlex
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "docs").glob("*.md"))}
"""The pages of the documentation by file name."""

COMMANDS = list(
    dict.fromkeys(
        line.rpartition("&& ")[2].strip()
        for text in [README, *PAGES.values()]
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    )
)
"""Each command once, those of the README first, without the installation before it."""


def command(start: str) -> list[str]:
    """Return the arguments of the only command with this start, to be run with this Python."""
    (found,) = [shlex.split(one) for one in COMMANDS if one.startswith(start)]
    return [sys.executable, *found[1:]] if found[0] == "python" else found
