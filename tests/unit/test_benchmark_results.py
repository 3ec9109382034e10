"""The README's tables are those of the results in the repository."""

import json
from pathlib import Path

from benchmarks import training
from benchmarks.against_anomalib import tables

REPOSITORY = Path(__file__).parents[2]


def test_the_comparison_with_anomalib_in_the_readme_is_the_one_measured() -> None:
    written = tables(REPOSITORY / "benchmarks" / "results" / "against_anomalib", ["magnetic_tile", "bottle"])
    assert written.strip() in (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_the_training_times_in_the_readme_are_those_measured() -> None:
    path = REPOSITORY / "benchmarks" / "results" / "training" / "training_same_as_test.json"
    (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"].values()
    assert training.table(run["results"]) in (REPOSITORY / "README.md").read_text(encoding="utf-8")
