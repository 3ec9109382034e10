"""The table of a comparison, for people to read."""

from anomalib_stfpm.comparison.predictions import METRICS
from anomalib_stfpm.comparison.record import FORMATS, Row
from anomalib_stfpm.reproduction.report import as_cell, with_spread

COLUMNS = {
    "model": "model",
    "seeds": "seeds",
    **{metric: metric for metric in METRICS},
    "fit": "fit, s",
    "memory": "memory, GB",
    "size": "size, MB",
    **{label: f"{label}, ms" for label in FORMATS},
    "p95": "f32 p95, ms",
    "throughput": "f32, images/s",
    "int8_change": "AUROC in int8",
    "agreement": "differs from torch",
}
"""Columns of the table that people read, with their headings."""


def cells(row: Row) -> dict[str, str]:
    """Write a row of the table for people."""
    written = {"model": row["model"], "seeds": str(len(row["seeds"]))}
    written |= {metric: with_spread(row[metric], row[f"{metric}_std"]) for metric in METRICS}
    written["fit"] = _number(row["fit_seconds"], ".0f")
    written["memory"] = _number(row["fit_peak_bytes"], ".2f", 1e-9)
    written["size"] = _number(row["size_bytes"], ".1f", 1e-6)
    for label in FORMATS:
        written[label] = _number(row.get(f"{label}_median_ms"), ".1f")
    written["p95"] = _number(row.get("f32_p95_ms"), ".1f")
    written["throughput"] = _number(row.get("f32_pictures_per_second"), ".1f")
    written["int8_change"] = _number(row["int8_image_AUROC_change"], "+.4f")
    written["agreement"] = _number(row["score_difference"], ".1e")
    return written


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
    return "" if value is None else format(value * unit, form)


def markdown_table(rows: list[Row]) -> list[str]:
    """Write the table of a category as Markdown, without columns that are empty."""
    written = [cells(row) for row in rows]
    columns = [column for column in COLUMNS if any(row[column] for row in written)]
    lines = ["| " + " | ".join(COLUMNS[column] for column in columns) + " |", "| --- " * len(columns) + "|"]
    return lines + ["| " + " | ".join(as_cell(row[column]) for column in columns) + " |" for row in written]
