"""Results of several seeds as Markdown."""

from collections.abc import Iterable
from typing import Any

from anomalib_stfpm.reproduction import report

Runs = dict[str, list[dict[str, Any]]]  # by recipe, a result for each seed

METRICS = (
    "image_AUROC", "pixel_AUROC", "AUPRO", "PointingGame", "CoveredAUROC", "image_F1Score", "image_F1Max",
)  # fmt: skip


def table(runs: Runs, latency: dict[str, float] | None = None) -> str:
    """Write a row a variant: number of seeds, mean and standard deviation of metrics and seconds to train, latency."""
    columns = ["", "seeds", *METRICS, "fit, s", *(["latency, ms"] if latency else [])]
    rows = [columns, ["---"] * len(columns)]
    for name, results in runs.items():
        metrics = [_spread(result["metrics"].get(metric) for result in results) for metric in METRICS]
        rows.append([name, str(len(results)), *metrics, _spread((r.get("fit_seconds") for r in results), digits=0)])
        if latency:
            rows[-1].append(f"{latency[name]:.1f}")
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _spread(figures: Iterable[float | None], digits: int = 4) -> str:
    return report.with_spread(*report.mean_and_spread(figures), digits)
