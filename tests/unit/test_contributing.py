"""Whoever is new finds every module in the guide for contributors, and none that is not there."""

import re

from tests.readme import REPOSITORY


def test_every_module_is_described_once() -> None:
    guide = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    described = re.findall(r"^\| `(.+\.py)` \| .+ \|$", guide, re.MULTILINE)
    paths = (path.relative_to(REPOSITORY / "src").as_posix() for path in (REPOSITORY / "src").rglob("[!_]*.py"))
    assert sorted(described) == sorted(path.removeprefix("anomalib_stfpm/") for path in paths)
