"""Results record the machine and the software that produced them."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import anomalib_stfpm
from anomalib_stfpm.results import environment


def test_versions_machine_and_python_are_json_values() -> None:
    description = environment.describe()
    assert json.loads(json.dumps(description)) == description
    assert description["versions"]["torch"] == version("torch")
    assert description["versions"]["anomalib-stfpm"] == anomalib_stfpm.__version__
    assert description["python"] == ".".join(str(part) for part in sys.version_info[:3])
    assert description["cpu"]
    assert description["cores"] >= 1


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_revision_is_that_of_the_checkout_that_tracks_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    source = tmp_path / "environment.py"
    source.write_text("first")
    monkeypatch.setattr(environment, "__file__", str(source))
    git("init", "--quiet")
    (tmp_path / "other.txt").write_text("of another project")
    git("add", "other.txt")
    git("commit", "--quiet", "--message", "another project")
    assert environment.describe()["git_revision"] is None, "a file that the checkout does not hold has no revision"
    git("add", "environment.py")
    git("commit", "--quiet", "--message", "the source")
    assert environment.describe()["git_revision"] == git("rev-parse", "HEAD")
    source.write_text("changed")
    assert environment.describe()["git_revision"] == git("rev-parse", "HEAD") + "+"
