"""The table of all models as CSV and Markdown."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from anomalib_stfpm.reproduction.report import as_cell
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.results import harmless

CSV_FILE, MARKDOWN_FILE = "models.csv", "models.md"

METRICS = ("image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "AUPRO")
COLUMNS = (
    "category", "images", "epoch", "fit_seconds", *METRICS, "image_threshold", "pixel_threshold", "checkpoint",
    "exported",
)  # fmt: skip


def write(folder: Path, results: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> None:
    """Write ``models.csv`` and ``models.md``, each replaced as a whole."""
    rows = [{column: {**result, **result["metrics"]}.get(column) for column in COLUMNS} for result in results]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)  # the default line ending, \r\n, makes it quote carriage returns in names
    writer.writeheader()
    writer.writerows({column: harmless(value) for column, value in row.items()} for row in rows)
    files.write_text(folder / CSV_FILE, text.getvalue())
    files.write_text(folder / MARKDOWN_FILE, markdown(rows, missing))


def markdown(rows: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> str:
    """Write the rows as Markdown without columns that are empty, then why each missing category has no model."""
    columns = [column for column in COLUMNS if any(row[column] is not None for row in rows)] or ["category"]
    lines = ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    lines += ["| " + " | ".join(_cell(row[column]) for column in columns) + " |" for row in rows]
    if missing:
        lines += ["", "Missing:", "", *(f"- {category}: {reason}" for category, reason in missing.items())]
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else as_cell(str(value))
