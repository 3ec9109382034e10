"""The README's tables are those of the results in the repository."""

import json

from anomalib_stfpm.comparison.table import markdown_table
from benchmarks import deployment, quality, training
from tests.readme import README, REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


def test_the_quality_in_the_readme_is_the_one_measured() -> None:
    measured = json.loads((RESULTS / "quality" / "20_epochs.json").read_text(encoding="utf-8"))
    assert measured
    for category, results in measured.items():
        assert f"{category}, 20 epochs\n\n{quality.table(results['runs'], results['latency'])}\n" in README


def test_the_comparison_in_the_readme_is_the_one_measured() -> None:
    records = sorted((RESULTS / "comparison").glob("*.json"))
    assert records
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        for category, verdict in record["verdicts"].items():
            table = "\n".join(markdown_table([row for row in record["table"] if row["category"] == category]))
            assert f"{category}: {verdict}\n\n{table}\n" in README


def test_the_deployment_in_the_readme_is_the_one_measured() -> None:
    measured = json.loads((RESULTS / "deployment" / "deployment.json").read_text(encoding="utf-8"))
    for table in deployment.tables(measured):
        assert f"{table}\n" in README


def test_the_training_times_in_the_readme_are_those_measured() -> None:
    path = RESULTS / "training" / "training_same_as_test.json"
    (run,) = json.loads(path.read_text(encoding="utf-8"))["runs"].values()
    assert training.table(run["results"]) in README


def test_the_reliability_in_the_readme_is_the_one_measured() -> None:
    folder = RESULTS / "reliability"
    killed, load = (json.loads((folder / f"{name}.json").read_text()) for name in ("killed_training", "load"))
    readme = " ".join(README.split())
    assert killed["same"] == killed["trainings"]
    assert (
        f"of {killed['kills']} kills, {killed['while_writing']} of them while a checkpoint was being written" in readme
    )
    assert f"all {killed['trainings']} trainings ended, bit for bit, as the uninterrupted one" in readme
    assert load["different"] == load["different_in_threads"] == 0
    assert f"scored {load['pictures']:,} pictures, its memory grew by {100 * load['growth']:.2f} %" in readme
