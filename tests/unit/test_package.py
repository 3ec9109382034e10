"""The wheel and the source archive hold what they should, and the extras what they need."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest
from packaging.requirements import Requirement

from tests.readme import REPOSITORY

EXTRAS = ("cluster", "deploy", "dev", "docs", "notebooks", "offline", "openvino", "test")

# anomalib's command, which then says which package it has trained.
TRAINING = """
from anomalib.cli.cli import main
main()
import anomalib_stfpm
print(anomalib_stfpm.__file__)
"""


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone, folder = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("released")
    subprocess.run(["git", "clone", "--quiet", REPOSITORY, clone], check=True)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(clone)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(released: Path) -> None:
    (wheel,) = released.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    listed = subprocess.run(
        ["git", "ls-files", "src"], cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout.split()
    assert names == {name.removeprefix("src/") for name in listed}


def test_the_sources_hold_no_data_and_no_results(released: Path) -> None:
    (sources,) = released.glob("*.tar.gz")
    with tarfile.open(sources) as archive:
        paths = [PurePosixPath(member.name) for member in archive.getmembers() if member.isfile()]
    assert {path.suffix for path in paths} <= {
        ".cfg",
        ".in",
        ".html",
        ".jinja",
        ".md",
        ".py",
        ".toml",
        ".txt",
        ".typed",
        "",
    }
    assert {path.parts[1] for path in paths} >= {"LICENSE", "README.md", "pyproject.toml", "src"}


def test_both_archives_pass_the_checks_of_the_package_index(released: Path) -> None:
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, released.iterdir())]
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2


@pytest.mark.slow
@pytest.mark.integration
def test_the_wheel_alone_trains_the_quickstart(released: Path, tmp_path: Path) -> None:
    installed, folder = tmp_path / "installed", tmp_path / "empty"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(installed)]
    subprocess.run([*install, *map(str, released.glob("*.whl"))], check=True)
    folder.mkdir()
    shutil.copy(REPOSITORY / "configs" / "quickstart.yaml", folder)
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1"]
    run = [sys.executable, "-c", TRAINING, "train", "--config", "quickstart.yaml", *short]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    trained = subprocess.run(run, cwd=folder, env=environment, check=False, capture_output=True, text=True)
    assert trained.returncode == 0, trained.stderr
    assert Path(trained.stdout.splitlines()[-1]) == installed / "anomalib_stfpm" / "__init__.py"
    assert len(list(folder.glob("results/Stfpm/TextureDemo/brick/latest/images/*/*.png"))) == 52


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_dev_environment_has_what_every_extra_requires(extra: str) -> None:
    assert set(metadata.metadata("anomalib-stfpm").get_all("Provides-Extra") or ()) == set(EXTRAS)
    asked = _asked_for("anomalib-stfpm", extra)
    assert asked
    assert [str(one) for one in asked if not one.specifier.contains(metadata.version(one.name))] == []


def test_the_lowest_versions_tested_are_the_lowest_allowed(released: Path) -> None:
    (wheel,) = released.glob("*.whl")
    (package,) = metadata.distributions(path=[str(wheel)])
    asked = [one for one in map(Requirement, package.requires or ()) if one.marker is None]
    lowest = {one.name: limit.version for one in asked for limit in one.specifier if limit.operator == ">="}
    pinned = [Requirement(line) for line in (REPOSITORY / "tests" / "lower_bounds.txt").read_text().splitlines()]
    assert {one.name for one in pinned} == set(lowest)
    assert [str(one) for one in pinned if not f"{one}.".startswith(f"{one.name}=={lowest[one.name]}.")] == []


def _asked_for(package: str, extra: str) -> list[Requirement]:
    """What an extra asks for, with what the extras that it names ask for."""
    asked = []
    for requirement in map(Requirement, metadata.requires(package) or ()):
        if requirement.marker and requirement.marker.evaluate({"extra": extra}):
            nested = [one for name in requirement.extras for one in _asked_for(requirement.name, name)]
            asked += nested if requirement.name == package else [requirement, *nested]
    return asked
