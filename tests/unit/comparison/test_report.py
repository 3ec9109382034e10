"""A comparison is written as JSON, CSV, Markdown and a page that needs nothing else."""

import csv
import json
import re
from pathlib import Path

from anomalib_stfpm.comparison import report
from anomalib_stfpm.comparison.record import CategoryResults, record

from .records import compared


def test_all_files_hold_the_same_figures(tmp_path: Path) -> None:
    made = compared(tmp_path, {"A": [0.8, 0.9], "B": [0.7, 0.7]}, {"A": 20, "B": 12.5})
    report.write(tmp_path, made)
    written = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert {**written, "categories": None} == json.loads(json.dumps({**made, "categories": None}))
    for run, all_of_it in zip(written["categories"]["part"]["runs"], made["categories"]["part"]["runs"], strict=True):
        assert run["metrics"] == all_of_it["metrics"]
        assert all_of_it.keys() - run.keys() == {"scores", "curves", "images"}
    with (tmp_path / "comparison.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], float(row["image_AUROC"]), row["seeds"]) for row in rows] == [
        ("A", made["table"][0]["image_AUROC"], "0 1"),
        ("B", 0.7, "0 1"),
    ]
    markdown = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    for figure in ("0.8500 (0.0707)", "12.5", made["verdicts"]["part"]):
        assert figure in markdown
        assert figure in page


def test_the_table_leaves_out_columns_that_are_empty(tmp_path: Path) -> None:
    heading = report.markdown(compared(tmp_path, {"A": [0.8]}, {})).split("| model")[1].splitlines()[0]
    assert "image_AUROC" in heading
    assert "f32" not in heading


def test_the_page_asks_for_nothing(tmp_path: Path) -> None:
    report.write(tmp_path, compared(tmp_path, {"A": [0.8]}, {"A": 20}))
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    sources = re.findall(r"(?:src|href)=[\"']?([^\"'>\s]{0,30})", page)
    assert sources
    assert [source for source in sources if not source.startswith(("data:", "#"))] == []
    assert "@import" not in page


def test_names_are_escaped(tmp_path: Path) -> None:
    report.write(tmp_path, compared(tmp_path, {"<b>alert(1)<b>": [0.8], "=1+1": [0.8]}, {}))
    page = (tmp_path / "comparison.html").read_text(encoding="utf-8")
    assert "alert(1)" in page
    assert "<b>alert" not in page
    assert "bad/&lt;0&gt;.png" in page
    assert "'=1+1" in (tmp_path / "comparison.csv").read_text(encoding="utf-8")


def test_problems_are_on_every_page(tmp_path: Path) -> None:
    report.write(tmp_path, record({}, [CategoryResults("part", [], {}, "its images are gone.")]))
    for name in ("comparison.md", "comparison.html"):
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert "part: its images are gone." in text
        assert "Nothing was measured." in text
