"""The commands of the README are ones that anomalib understands."""

import re
import shlex
from pathlib import Path

import pytest
from anomalib.cli import AnomalibCLI

from anomalib_stfpm import Stfpm
from tests.conftest import write_picture

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]
COMMANDS = [
    line.rpartition("&&")[2].strip()
    for block in re.findall(r"```bash\n(.*?)```", (REPOSITORY / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    for line in block.splitlines()
    if "anomalib train" in line or line.startswith("anomalib ")
]


def test_the_readme_shows_every_verb() -> None:
    assert {command.split()[1] for command in COMMANDS} >= {"train", "test", "predict", "export"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("pictures/screw/train/good", "pictures/screw/test/bent", "new_pictures"):
        write_picture(tmp_path / folder / "0.png", seed=0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    assert isinstance(AnomalibCLI(shlex.split(command)[1:], run=False).model, Stfpm)
