"""What the tests of refusals share, and how many inputs there were."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from anomalib_stfpm import Stfpm
from anomalib_stfpm_deploy import cli
from tests.integration.conftest import quiet_engine, tiny_model
from tests.integration.test_export import trained_for_a_step

from .harness import Done, Run, in_this_process

_HERE = "tests/refusals/test_"
_COMPUTES = "computes"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{_COMPUTES}: something had to be trained or computed before the refusal")


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
        at_once = [report for report in reports if (_COMPUTES, False) in report.user_properties]
        slowest = max(at_once, key=lambda report: report.duration)
        terminalreporter.write_line(f"The slowest that computed nothing took {slowest.duration:.1f} s: {slowest.nodeid}")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command ``anomalib-stfpm``."""

    def command(*arguments: object) -> Done:
        return in_this_process(cli.main, ["anomalib-stfpm", *arguments], capsys, monkeypatch)

    return command
