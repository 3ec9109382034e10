"""The table of a comparison, for people to read."""

from anomalib_stfpm.comparison.predictions import METRICS
from anomalib_stfpm.comparison.record import FORMATS, Row
from anomalib_stfpm.reproduction.report import as_cell, with_spread

_NUMBERS = {
    "fit": ("fit, s", "fit_seconds", ".0f", 1),
    "memory": ("memory, GB", "fit_peak_bytes", ".2f", 1e-9),
    "size": ("size, MB", "size_bytes", ".1f", 1e-6),
    **{label: (f"{label}, ms", f"{label}_median_ms", ".1f", 1) for label in FORMATS},
    "p95": ("f32 p95, ms", "f32_p95_ms", ".1f", 1),
    "throughput": ("f32, images/s", "f32_pictures_per_second", ".1f", 1),
    "int8_change": ("AUROC in int8", "int8_image_AUROC_change", "+.4f", 1),
    "agreement": ("differs from torch", "score_difference", ".1e", 1),
}
"""By column its heading, the name of its value, and the format and unit of that."""

COLUMNS = {
    **{name: name for name in ("model", "seeds", *METRICS)},
    "PointingGame": "pointing game",
    "CoveredAUROC": "covered AUROC",
    **{column: heading for column, (heading, *_) in _NUMBERS.items()},
}
"""Columns of the table that people read, with their headings."""


def cells(row: Row) -> dict[str, str]:
    """Write a row of the table for people: text by column, empty where nothing was measured."""
    written = {"model": row["model"], "seeds": str(len(row["seeds"]))}
    written |= {metric: with_spread(row.get(metric), row.get(f"{metric}_std")) for metric in METRICS}
    for column, (_, name, form, unit) in _NUMBERS.items():
        value = row.get(name)
        written[column] = "" if value is None else format(value * unit, form)
    return written


def markdown_table(rows: list[Row]) -> list[str]:
    """Write the table of a category as Markdown, without columns that are empty."""
    written = [cells(row) for row in rows]
    columns = [column for column in COLUMNS if any(row[column] for row in written)]
    lines = ["| " + " | ".join(COLUMNS[column] for column in columns) + " |", "| --- " * len(columns) + "|"]
    return lines + ["| " + " | ".join(as_cell(row[column]) for column in columns) + " |" for row in written]
