"""CI runs the commands that a developer runs."""

import yaml

from tests.readme import REPOSITORY

JOBS = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]


def test_every_system_and_python_runs_the_same_script() -> None:
    job = JOBS["ci"]
    matrix = job["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "windows", "macos"}
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert (REPOSITORY / ".ci" / "run").stat().st_mode & 0o111


def test_the_lowest_versions_are_tested_with_the_documented_command() -> None:
    (command,) = [step["run"] for step in JOBS["lower-bounds"]["steps"] if "run" in step]
    assert "--constraint tests/lower_bounds.txt" in command
    assert f"`{command}`" in (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
