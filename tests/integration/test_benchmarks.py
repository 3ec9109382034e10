"""The benchmark of training runs, and its ratios are those of the times it gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import CategoryWriter

pytestmark = pytest.mark.integration


def test_contenders_train_in_turns_and_are_compared(write_category: CategoryWriter, tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.training", "--root", write_category("part"), "--category", "part",
        "--pictures", "4", "--size", "80", "--epochs", "2", "--num-workers", "0", "--contenders", "default", "plain",
        "--output", tmp_path / "results",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=True, capture_output=True, text=True)
    report = json.loads((tmp_path / "results" / "training_same_as_test.json").read_text(encoding="utf-8"))
    results = report["runs"]["4 pictures of 80 x 80"]["results"]
    assert results.keys() == {"default", "plain"}
    for result in results.values():
        assert len(result["seconds_per_epoch"]) == 2
        assert result["fit_seconds"] == pytest.approx(sum(result["seconds_per_epoch"]))
    ratio = results["plain"]["fit_seconds"] / results["default"]["fit_seconds"]
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| default")]
    assert row.split(" | ")[-1].removesuffix(" |") == f"{ratio:.2f}"
