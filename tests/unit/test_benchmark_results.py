"""The tables in README and docs have the values of the results in the repository."""

import json
from collections.abc import Sequence
from typing import Any

from anomalib_stfpm.comparison.table import markdown_table
from benchmarks import cluster, deployment, quality, training
from tests.readme import PAGES, README, REPOSITORY

RESULTS = REPOSITORY / "benchmarks" / "results"


def _read(name: str) -> Any:  # noqa: ANN401
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def _columns(table: str, headings: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns with these headings of a Markdown table, by the first cell of each row."""
    names, _, *rows = ([cell.strip() for cell in line[1:-1].split(" | ")] for line in table.splitlines())
    return {row[0]: [row[names.index(heading)] for heading in headings] for row in rows}


def test_the_quality_tables_are_those_measured() -> None:
    for epochs in (20, 60):
        measured = _read(f"quality/{epochs}_epochs.json")
        assert measured
        for category, results in measured.items():
            table = quality.table(results["runs"], results.get("latency"))
            assert f"{category}, {epochs} epochs\n\n{table}\n" in PAGES["comparison.md"]


def test_the_quality_in_the_readme_is_the_one_measured() -> None:
    by_epochs = {epochs: _read(f"quality/{epochs}_epochs.json") for epochs in (20, 60)}
    runs = {
        category: {name: runs for measured in by_epochs.values() for name, runs in measured[category]["runs"].items()}
        for category in ("magnetic_tile", "bottle")
    }
    tiles, bottles = (quality.table(runs[category]) for category in runs)
    of_tiles = _columns(tiles, ["image_AUROC", "pixel_AUROC", "AUPRO"])
    of_bottles = _columns(bottles, ["image_AUROC"])
    for name in ("default", "original", "anomalib's Stfpm", "PaDiM", "PatchCore"):
        assert f"| {' | '.join([name, *of_tiles[name], *of_bottles[name]])} |\n" in README


def test_the_comparison_tables_are_those_measured() -> None:
    records = sorted((RESULTS / "comparison").glob("*.json"))
    assert records
    for path in records:
        record = json.loads(path.read_text(encoding="utf-8"))
        for category, verdict in record["verdicts"].items():
            table = "\n".join(markdown_table([row for row in record["table"] if row["category"] == category]))
            assert f"{category}: {verdict}\n\n{table}\n" in PAGES["comparison.md"]


def test_the_speed_in_the_readme_is_the_one_measured() -> None:
    table = "\n".join(markdown_table(_read("comparison/brick.json")["table"]))
    headings = ["fit, s", "f32, ms", "bf16, ms", "int8, ms", "f32, images/s", "size, MB"]
    assert f"| {' | '.join(['model', *headings])} |\n" in README
    for name, cells in _columns(table, headings).items():
        assert f"| {' | '.join([name, *cells])} |\n" in README


def test_the_deployment_tables_are_those_measured() -> None:
    for table in deployment.tables(_read("deployment/deployment.json")):
        assert f"{table}\n" in PAGES["deployment.md"]


def test_the_cluster_tables_are_those_measured() -> None:
    record = _read("cluster/cluster.json")
    for table in cluster.tables(record):
        assert f"{table}\n" in PAGES["many_machines.md"]
    page = " ".join(PAGES["many_machines.md"].split())
    assert f"a job costs {1e3 * record['jobs']['seconds_per_job']:.1f} ms" in page
    assert f"its export, took {record['train_seconds']:.0f} s" in page
    assert f"{record['listed_per_second']:,.0f} images per second are listed" in page


def test_the_training_times_are_those_measured() -> None:
    (run,) = _read("training/training_same_as_test.json")["runs"].values()
    assert training.table(run["results"]) in PAGES["training.md"]
    assert training.growth_table(_read("training/growth.json")["runs"]) in PAGES["training.md"]


def test_the_reliability_figures_are_those_measured() -> None:
    killed, load = (_read(f"reliability/{name}.json") for name in ("killed_training", "load"))
    page = " ".join(PAGES["reliability.md"].split())
    assert killed["same"] == killed["trainings"]
    assert f"Of {killed['kills']} kills, {killed['while_writing']} were during the writing of a checkpoint" in page
    assert (
        f"All {killed['trainings']} trainings ended with the same student, bit for bit, as an uninterrupted one" in page
    )
    assert load["different"] == load["different_in_threads"] == 0
    assert f"scored {load['images']:,} images with" in page
    assert f"Its memory grew by {100 * load['growth']:.2f} %" in page
