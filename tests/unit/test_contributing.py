"""The guide for contributors has every folder of the source, and only files that exist."""

import re

from tests.readme import PAGES, REPOSITORY


def test_every_folder_is_described_once_with_files_that_exist() -> None:
    rows = re.findall(r"^\| `(src/.+?)` \| .+? \| (.*?) ?\|$", PAGES["design.md"], re.MULTILINE)
    folders = {path.parent.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "src").rglob("__init__.py")}
    assert sorted(folder for folder, _ in rows) == sorted(folders)
    files = [f"{folder}/{name}" for folder, names in rows for name in re.findall("`(.+?)`", names)]
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []


def test_the_files_to_change_exist() -> None:
    files = re.findall(r"^\| .+ \| `(src/.+\.py)` \|$", PAGES["design.md"], re.MULTILINE)
    assert len(files) > 5
    assert [name for name in files if not (REPOSITORY / name).is_file()] == []
