"""Results survive an interruption, and are not mixed with those of another model."""

import csv
import json
from pathlib import Path

import pytest

from anomalib_stfpm_deploy.results import Result, Results

MADE_WITH = {"model": "abc", "precision": "f32"}


def result(image: str, folder: Path) -> Result:
    (folder / f"{image}.map").write_text("map", encoding="utf-8")
    return Result(image, "10 bytes", 0.25, False, f"{image}.map", f"{image}.map")


def test_json_and_csv_have_the_results_in_the_order_of_the_images(tmp_path: Path) -> None:
    results = Results(tmp_path, MADE_WITH)
    unreadable = Result("ä.png", "0 bytes", unreadable="it is empty")
    results.add(unreadable)
    results.add(result("b.png", tmp_path))
    assert [one.picture for one in results.finish(["b.png", "ä.png"])] == ["b.png", "ä.png"]
    record = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert record["made_with"] == MADE_WITH
    assert [one["score"] for one in record["results"]] == [0.25, None]
    with (tmp_path / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["picture"], row["score"], row["unreadable"]) for row in rows] == [
        ("b.png", "0.25", ""),
        ("ä.png", "", "it is empty"),
    ]
    assert not (tmp_path / "results.partial.jsonl").exists()


@pytest.mark.parametrize("torn", ["", '{"picture": "c.png", "ver'])
def test_an_interrupted_run_resumes_after_the_last_complete_line(torn: str, tmp_path: Path) -> None:
    Results(tmp_path, MADE_WITH).add(result("a.png", tmp_path))
    journal = tmp_path / "results.partial.jsonl"
    journal.write_text(journal.read_text(encoding="utf-8") + torn, encoding="utf-8")
    results = Results(tmp_path, MADE_WITH)
    assert results.is_known("a.png", "10 bytes")
    assert not results.is_known("c.png", "10 bytes")
    results.add(result("b.png", tmp_path))
    assert len(Results(tmp_path, MADE_WITH).finish(["a.png", "b.png"])) == 2


def test_a_finished_run_is_not_repeated(tmp_path: Path) -> None:
    results = Results(tmp_path, MADE_WITH)
    results.add(result("a.png", tmp_path))
    results.finish(["a.png"])
    assert Results(tmp_path, MADE_WITH).is_known("a.png", "10 bytes")


def test_changed_images_lost_maps_and_unreadable_images_are_repeated(tmp_path: Path) -> None:
    results = Results(tmp_path, MADE_WITH)
    for image in ("a.png", "b.png"):
        results.add(result(image, tmp_path))
    results.add(Result("c.png", "10 bytes", unreadable="it is empty"))
    (tmp_path / "b.png.map").write_text("", encoding="utf-8")  # as a power cut may leave it
    assert results.is_known("a.png", "10 bytes")
    assert not results.is_known("a.png", "11 bytes")
    assert not results.is_known("b.png", "10 bytes")
    assert not results.is_known("c.png", "10 bytes")


def test_results_of_another_model_are_not_changed(tmp_path: Path) -> None:
    results = Results(tmp_path, MADE_WITH)
    results.add(result("a.png", tmp_path))
    results.finish(["a.png"])
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(ValueError, match="made with another model: give another output folder"):
        Results(tmp_path, {**MADE_WITH, "model": "def"})
    assert (tmp_path / "results.json").read_bytes() == before


def test_a_file_that_holds_no_results_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(ValueError, match="is not a list of results: give another output folder"):
        Results(tmp_path, MADE_WITH)
    assert (tmp_path / "results.json").read_text(encoding="utf-8") == "[1, 2]"


def test_a_spreadsheet_runs_no_name_as_a_formula(tmp_path: Path) -> None:
    results = Results(tmp_path, MADE_WITH)
    results.add(Result("=1+1.png", "10 bytes", unreadable="it is empty"))
    results.finish(["=1+1.png"])
    assert "\n'=1+1.png," in (tmp_path / "results.csv").read_text(encoding="utf-8")
