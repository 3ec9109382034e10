"""What the tests of refusals share, and how many inputs there were."""

from pathlib import Path

import pytest

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm_deploy import cli
from tests.conftest import write_picture
from tests.integration.conftest import quiet_engine, tiny_model

from .harness import Done, Run, in_this_process

_HERE = "tests/refusals/test_"
_COMPUTES = "computes"


@pytest.fixture(autouse=True)
def _about_this_input(request: pytest.FixtureRequest, record_property: object) -> None:
    assert callable(record_property)
    record_property(_COMPUTES, request.node.get_closest_marker(_COMPUTES) is not None)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many inputs were treated rightly, and how long the slowest took that needed no computing."""
    reports = [
        report
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if report.when == "call" and report.nodeid.startswith(_HERE) and "[" in report.nodeid
    ]
    if reports:
        right = sum(report.passed for report in reports)
        terminalreporter.write_line(f"{right} of {len(reports)} inputs were treated rightly.")
        at_once = [report for report in reports if not dict(report.user_properties).get(_COMPUTES)]
        slowest = max(at_once or reports, key=lambda report: report.duration)
        terminalreporter.write_line(
            f"The slowest that computed nothing took {slowest.duration:.1f} s: {slowest.nodeid}"
        )


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command ``anomalib-stfpm``."""

    def command(*arguments: object) -> Done:
        return in_this_process(cli.main, ["anomalib-stfpm", *arguments], capsys, monkeypatch)

    return command


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny category, ``part``, to train and test with. Nothing may change it."""
    root = tmp_path_factory.mktemp("pictures")
    for index in range(2):
        write_picture(root / "part" / "train" / "good" / f"{index}.png", seed=index)
        write_picture(root / "part" / "test" / "good" / f"{index}.png", seed=10 + index)
        write_picture(root / "part" / "test" / "bad" / f"{index}.png", seed=20 + index, defect=True)
    return root


@pytest.fixture(scope="session")
def checkpoint(pictures: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that has been trained for a step. Nothing may change it."""
    folder = tmp_path_factory.mktemp("trained")
    engine = quiet_engine(folder, logger=False)
    engine.fit(tiny_model(teacher_file), datamodule=MVTecLayout(pictures, "part", num_workers=0))
    (written,) = folder.rglob("model.ckpt")
    return written


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``.xml`` file of that model. Nothing may change it."""
    return Stfpm.load_from_checkpoint(checkpoint, map_location="cpu").to_openvino(tmp_path_factory.mktemp("exported"))
