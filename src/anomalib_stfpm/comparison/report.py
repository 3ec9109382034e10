"""Files that a comparison is written to: JSON, CSV, Markdown and a page."""

import csv
import io
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from anomalib_stfpm.comparison.page import page
from anomalib_stfpm.comparison.record import Row
from anomalib_stfpm.comparison.table import markdown_table
from anomalib_stfpm.results import finite_json
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.results import harmless

JSON_FILE, CSV_FILE, MARKDOWN_FILE, PAGE_FILE = (f"comparison.{suffix}" for suffix in ("json", "csv", "md", "html"))

_DETAILS = {"scores", "curves", "images"}


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, ``.csv``, ``.md`` and ``.html``, each replaced as a whole.

    Args:
        folder: Where to write; it holds the runs' folders.
        record: What :func:`anomalib_stfpm.comparison.record.record` has made.

    Raises:
        OSError: If a file cannot be written.
    """
    files.write_text(folder / JSON_FILE, finite_json.dumps(_without_details(record)))
    files.write_text(folder / CSV_FILE, _csv(record["table"]))
    files.write_text(folder / MARKDOWN_FILE, markdown(record))
    files.write_text(folder / PAGE_FILE, page(record, folder))


def _without_details(record: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is in the runs' own results: what they say of every image."""
    categories = {
        name: {**of_category, "runs": [_without(run, _DETAILS) for run in of_category["runs"]]}
        for name, of_category in record["categories"].items()
    }
    return {**record, "categories": categories}


def _without(mapping: Mapping[str, Any], keys: Container[str]) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key not in keys}


def markdown(record: Mapping[str, Any]) -> str:
    """Write a comparison as Markdown.

    Args:
        record: The record.

    Returns:
        For each category the verdict and the table, and a list of what went wrong.
    """
    lines = []
    for category, details in record["categories"].items():
        rows = [row for row in record["table"] if row["category"] == category]
        lines += [f"## {' '.join(category.split())}", "", record["verdicts"].get(category, "Nothing was measured."), ""]
        lines += [line for note in details["notes"] for line in (note, "")]
        if rows:
            lines += [*markdown_table(rows), ""]
    if record["problems"]:
        lines += ["Problems:", "", *(f"- {problem}" for problem in record["problems"]), ""]
    return "\n".join(lines)


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns)  # whose lines end so that carriage returns in names are quoted
    writer.writeheader()
    for row in rows:
        values = {**row, "seeds": " ".join(str(seed) for seed in row["seeds"])}
        writer.writerow({column: harmless(value) for column, value in values.items()})
    return text.getvalue()
