"""The table of a reproduction as JSON, CSV and Markdown: our metrics, the published ones and the difference."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from anomalib_stfpm.reproduction.published import PUBLISHED, PublishedResult
from anomalib_stfpm.results import finite_json
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.results import harmless

METRICS = ("pixel_AUROC", "image_AUROC", "PublishedPRO", "AUPRO")
AVERAGE = "average"
RESULTS_FILE = "results.json"

Row = dict[str, Any]


def table(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """Compare results of runs with the published ones.

    Returns one row for each category, in alphabetical order, then their average. A row holds ``category``, ``seeds``
    and for every metric the mean over seeds, ``<metric>_std`` (with two seeds or more), ``<metric>_published`` and
    ``<metric>_difference`` (ours minus published), ``None`` if there is no such value. The averages of ``_published``
    and ``_difference`` are over the categories that have both our metric and a published one.

    Example:
        >>> rows = table([{"category": "screw", "seed": 0, "metrics": {"image_AUROC": 0.9}}])
        >>> rows[0]["image_AUROC_published"], round(rows[0]["image_AUROC_difference"], 4)
        (0.894651, 0.0053)
    """
    categories = sorted({result["category"] for result in results})
    rows = [_row(category, [r for r in results if r["category"] == category]) for category in categories]
    return [*rows, _average(rows)] if rows else []


def _row(category: str, results: Sequence[Mapping[str, Any]]) -> Row:
    row: Row = {"category": category, "seeds": sorted(result["seed"] for result in results)}
    for metric in METRICS:
        ours, spread = mean_and_spread(result["metrics"].get(metric) for result in results)
        published = getattr(PUBLISHED.get(category), metric, None)
        row[metric] = ours
        row[f"{metric}_std"] = spread
        row[f"{metric}_published"] = published
        row[f"{metric}_difference"] = None if ours is None or published is None else ours - published
    return row


def _average(rows: Sequence[Row]) -> Row:
    average: Row = {"category": AVERAGE, "seeds": []}
    for metric in METRICS:
        measured = [row for row in rows if row[metric] is not None]
        for column in (metric, f"{metric}_published", f"{metric}_difference"):
            average[column], _ = mean_and_spread(row[column] for row in measured)
        average[f"{metric}_std"] = None
    return average


def markdown(rows: Sequence[Row], missing: Mapping[str, str]) -> str:
    """Write the rows of :func:`table` as Markdown, then why each missing category has no result."""
    compared = PublishedResult._fields
    header = ["category", "seeds"]
    for metric in METRICS:
        header += [metric, "published", "difference"] if metric in compared else [metric]
    lines = ["| " + " | ".join(header) + " |", "| --- |" + " --- |" * (len(header) - 1)]
    for row in rows:
        cells = [row["category"], " ".join(str(seed) for seed in row["seeds"])]
        for metric in METRICS:
            cells.append(with_spread(row[metric], row[f"{metric}_std"]))
            if metric in compared:
                cells.append(_formatted(row[f"{metric}_published"]))
                cells.append(_formatted(row[f"{metric}_difference"], sign="+"))
        lines.append("| " + " | ".join(as_cell(cell) for cell in cells) + " |")
    if missing:
        lines += ["", "Missing:", "", *(f"- {category}: {reason}" for category, reason in missing.items())]
    return "\n".join(lines) + "\n"


def mean_and_spread(figures: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Return mean and standard deviation of the finite values, ``None`` if there are too few of them.

    Example:
        >>> mean_and_spread([1.0, None, 3.0, float("nan")])
        (2.0, 1.4142135623730951)
    """
    finite = [figure for figure in figures if figure is not None and math.isfinite(figure)]
    return mean(finite) if finite else None, stdev(finite) if len(finite) > 1 else None


def with_spread(mean: float | None, spread: float | None, digits: int = 4) -> str:
    """Format a mean and, in brackets, the standard deviation, each if there is one.

    Example:
        >>> with_spread(0.95, 0.01), with_spread(0.95, None), with_spread(None, None)
        ('0.9500 (0.0100)', '0.9500', '')
    """
    return _formatted(mean, digits=digits) + ("" if spread is None else f" ({spread:.{digits}f})")


def as_cell(text: str) -> str:
    """Escape a text for a cell of a Markdown table.

    Example:
        >>> as_cell("good | bad")
        'good &#124; bad'
    """
    return " ".join(text.split()).replace("|", "&#124;")


def write(folder: Path, results: Sequence[Mapping[str, Any]], missing: Mapping[str, str]) -> list[Row]:
    """Write ``results.json``, ``results.csv`` and ``results.md``, and return the rows of the table."""
    rows = table(results)
    record = {"table": rows, "missing": dict(missing), "runs": list(results)}
    files.write_text(folder / RESULTS_FILE, finite_json.dumps(record))
    files.write_text(folder / "results.csv", _csv(rows))
    files.write_text(folder / "results.md", markdown(rows, missing))
    return rows


def _csv(rows: Sequence[Row]) -> str:
    text = io.StringIO()
    columns = ["category", "seeds"]
    columns += [f"{metric}{part}" for metric in METRICS for part in ("", "_std", "_published", "_difference")]
    writer = csv.DictWriter(text, columns)  # the default line ending, \r\n, makes it quote carriage returns in names
    writer.writeheader()
    for row in rows:
        seeds = " ".join(str(seed) for seed in row["seeds"])
        writer.writerow({**row, "category": harmless(row["category"]), "seeds": seeds})
    return text.getvalue()


def _formatted(value: float | None, sign: str = "", digits: int = 4) -> str:
    return "" if value is None else f"{value:{sign}.{digits}f}"
