"""The table of a reproduction has the right values in every format."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from anomalib_stfpm.reproduction import report
from anomalib_stfpm.reproduction.published import PUBLISHED


def result(category: str, seed: int, **metrics: float) -> dict[str, Any]:
    return {"category": category, "seed": seed, "metrics": metrics}


RESULTS = [
    result("screw", 1, pixel_AUROC=0.99, image_AUROC=0.90, PublishedPRO=0.95, AUPRO=0.94),
    result("screw", 0, pixel_AUROC=0.97, image_AUROC=0.80, PublishedPRO=0.93, AUPRO=0.92),
    result("bottle", 0, image_AUROC=0.98),
    result("mine", 0, pixel_AUROC=0.60, image_AUROC=0.50, PublishedPRO=0.40, AUPRO=0.30),
]


def test_published_averages_are_those_of_the_paper() -> None:
    averages = [sum(column) / len(PUBLISHED) for column in zip(*PUBLISHED.values(), strict=True)]
    assert len(PUBLISHED) == 15
    assert averages == pytest.approx([0.970174, 0.955488, 0.928347], abs=1e-6)


def test_a_row_has_mean_and_deviation_over_seeds_and_the_difference_from_the_published_value() -> None:
    screw = next(row for row in report.table(RESULTS) if row["category"] == "screw")
    assert screw["seeds"] == [0, 1]
    assert screw["image_AUROC"] == pytest.approx(0.85)
    assert screw["image_AUROC_std"] == pytest.approx(0.1 / 2**0.5)
    assert screw["image_AUROC_published"] == 0.894651
    assert screw["image_AUROC_difference"] == pytest.approx(0.85 - 0.894651)
    assert screw["AUPRO"] == pytest.approx(0.93)
    assert screw["AUPRO_published"] is screw["AUPRO_difference"] is None


def test_values_that_do_not_exist_are_none() -> None:
    rows = {row["category"]: row for row in report.table(RESULTS)}
    assert rows["bottle"]["pixel_AUROC"] is rows["bottle"]["pixel_AUROC_difference"] is None
    assert rows["bottle"]["image_AUROC_std"] is None
    assert rows["bottle"]["image_AUROC_difference"] == pytest.approx(-0.02)
    assert rows["mine"]["image_AUROC_published"] is rows["mine"]["image_AUROC_difference"] is None


def test_averages_are_over_the_categories_that_have_the_value() -> None:
    average = report.table(RESULTS)[-1]
    assert average["category"] == "average"
    assert average["image_AUROC"] == pytest.approx((0.85 + 0.98 + 0.50) / 3)
    assert average["pixel_AUROC"] == pytest.approx((0.98 + 0.60) / 2)
    assert average["image_AUROC_published"] == pytest.approx((0.894651 + 1) / 2)
    assert average["image_AUROC_difference"] == pytest.approx((0.85 - 0.894651 + 0.98 - 1) / 2)
    assert average["pixel_AUROC_published"] == PUBLISHED["screw"].pixel_AUROC
    assert average["AUPRO_published"] is None


def test_markdown_csv_and_json_agree(tmp_path: Path) -> None:
    rows = report.write(tmp_path, RESULTS, {"carpet": "there is no folder 'x'"})
    text = (tmp_path / "results.md").read_text()
    header, _, *lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert header[:5] == ["category", "seeds", "pixel_AUROC", "published", "difference"]
    assert [line[0] for line in lines] == ["bottle", "mine", "screw", "average"]
    assert lines[2][:8] == [
        "screw",
        "0 1",
        "0.9800 (0.0141)",
        "0.9885",
        "-0.0085",
        "0.8500 (0.0707)",
        "0.8947",
        "-0.0447",
    ]
    assert text.endswith("Missing:\n\n- carpet: there is no folder 'x'\n")
    with (tmp_path / "results.csv").open() as file:
        table = list(csv.DictReader(file))
    for row, cells in zip(rows, table, strict=True):
        for metric in report.METRICS:
            assert cells[metric] == ("" if row[metric] is None else str(row[metric]))
    record = json.loads((tmp_path / "results.json").read_text())
    assert record == {"table": rows, "missing": {"carpet": "there is no folder 'x'"}, "runs": RESULTS}


def test_without_results_there_is_a_table_without_rows(tmp_path: Path) -> None:
    assert report.write(tmp_path, [], {"carpet": "gone"}) == []
    assert "- carpet: gone" in (tmp_path / "results.md").read_text()
