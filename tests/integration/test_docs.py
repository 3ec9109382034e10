"""The documentation is built without a warning."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import anomalib_stfpm
from tests.readme import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.slow]  # it runs the notebooks


def test_the_build_has_no_warning_and_describes_every_public_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees")]
    built = subprocess.run(
        [*command, str(REPOSITORY / "docs"), str(tmp_path / "pages")], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    reference = (tmp_path / "pages" / "api.html").read_text(encoding="utf-8")
    described = set(re.findall(r'id="(?:module-)?anomalib_stfpm\.(\w+)"', reference))
    assert set(anomalib_stfpm.__all__) <= described
