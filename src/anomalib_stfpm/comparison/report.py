"""Files that a comparison is written to: JSON, CSV, Markdown and a page."""

import csv
import io
from collections.abc import Mapping, Sequence
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
    """Write ``comparison.json``, ``.csv``, ``.md`` and ``.html``, each replaced as a whole."""
    categories = {name: {**one, "runs": _without_details(one["runs"])} for name, one in record["categories"].items()}
    files.write_text(folder / JSON_FILE, finite_json.dumps({**record, "categories": categories}))
    files.write_text(folder / CSV_FILE, _csv(record["table"]))
    files.write_text(folder / MARKDOWN_FILE, markdown(record))
    files.write_text(folder / PAGE_FILE, page(record, folder))


def _without_details(runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Leave out what is in the runs' own results: what they say of every image."""
    return [{key: value for key, value in run.items() if key not in _DETAILS} for run in runs]


def markdown(record: Mapping[str, Any]) -> str:
    """Write a comparison as Markdown."""
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
