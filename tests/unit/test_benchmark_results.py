"""The README's tables are those of the results in the repository."""

import json
from pathlib import Path

from benchmarks import quality, training

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
RESULTS = REPOSITORY / "benchmarks" / "results"


def test_the_quality_in_the_readme_is_the_one_measured() -> None:
    measured = json.loads((RESULTS / "quality" / "20_epochs.json").read_text(encoding="utf-8"))
    assert measured
    for category, results in measured.items():
        assert f"{category}, 20 epochs\n\n{quality.table(results['runs'], results['latency'])}\n" in README


def test_the_training_times_in_the_readme_are_those_measured() -> None:
    path = RESULTS / "training" / "training_same_as_test.json"
    (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"].values()
    assert training.table(run["results"]) in README
