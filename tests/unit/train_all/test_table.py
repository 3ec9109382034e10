"""The table of all models is written as CSV and Markdown."""

import csv
from pathlib import Path

from anomalib_stfpm.train_all import table

RESULT = {
    "category": "=screw|", "images": 4, "epoch": 2, "fit_seconds": None, "image_threshold": 1.23456789,
    "pixel_threshold": 0.5, "checkpoint": "=screw|/student.ckpt", "exported": "=screw|/model.xml",
    "metrics": {"image_AUROC": 0.75},
}  # fmt: skip


def test_columns_without_a_value_are_left_out_for_people_only(tmp_path: Path) -> None:
    table.write(tmp_path, [RESULT], {"bolt": "there is no folder"})
    assert (tmp_path / "models.md").read_text(encoding="utf-8").splitlines() == [
        "| category | images | epoch | image_AUROC | image_threshold | pixel_threshold | checkpoint | exported |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| =screw&#124; | 4 | 2 | 0.75 | 1.235 | 0.5 | =screw&#124;/student.ckpt | =screw&#124;/model.xml |",
        "",
        "Missing:",
        "",
        "- bolt: there is no folder",
    ]
    with (tmp_path / "models.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["category"] == "'=screw|"
    assert row["image_threshold"] == "1.23456789"
    assert row["fit_seconds"] == row["AUPRO"] == ""


def test_without_a_model_the_reasons_are_written(tmp_path: Path) -> None:
    table.write(tmp_path, [], {"bolt": "there is no folder"})
    assert "- bolt: there is no folder\n" in (tmp_path / "models.md").read_text(encoding="utf-8")
