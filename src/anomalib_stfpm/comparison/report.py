"""Files that a comparison is written to: JSON, CSV, Markdown and a page."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.results import harmless

from .page import page
from .record import Row
from .table import markdown_table

JSON_FILE, CSV_FILE, MARKDOWN_FILE, PAGE_FILE = (f"comparison.{suffix}" for suffix in ("json", "csv", "md", "html"))


def write(folder: Path, record: Mapping[str, Any]) -> None:
    """Write ``comparison.json``, ``.csv``, ``.md`` and ``.html``, each replaced as a whole.

    Args:
        folder: Where to write.
        record: What :func:`anomalib_stfpm.comparison.record.record` has made.

    Raises:
        OSError: If a file cannot be written.
    """
    files.write_text(folder / JSON_FILE, json.dumps(record, indent=1) + "\n")
    files.write_text(folder / CSV_FILE, _csv(record["table"]))
    files.write_text(folder / MARKDOWN_FILE, markdown(record))
    files.write_text(folder / PAGE_FILE, page(record))


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
        lines += [f"## {category}", "", record["verdicts"].get(category, "Nothing was measured."), ""]
        lines += [line for note in details["notes"] for line in (note, "")]
        if rows:
            lines += [*markdown_table(rows), ""]
    if record["problems"]:
        lines += ["Problems:", "", *(f"- {problem}" for problem in record["problems"]), ""]
    return "\n".join(lines)


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = {**row, "seeds": " ".join(str(seed) for seed in row["seeds"])}
        writer.writerow({column: harmless(value) for column, value in values.items()})
    return text.getvalue()
