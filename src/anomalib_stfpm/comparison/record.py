"""What a comparison has found: every figure that a report shows is made here from the runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

from anomalib_stfpm.comparison.predictions import METRICS
from anomalib_stfpm.comparison.run import FLOAT, INT8
from anomalib_stfpm.reproduction.report import mean_and_spread

Row = dict[str, Any]

ONE_SEED_SPREAD = 0.005
"""By how much accuracies must differ to count as different where a single seed gives no spread."""


MOST_WITH_DEFECTS_COVERED = 0.7
"""Image AUROC with the defects covered above which a model is said to be right for another reason."""


@dataclass(frozen=True)
class RunResult:
    """What came out of a run."""

    model: str
    seed: int
    folder: Path  # below the output folder
    measured: dict[str, Any] | None  # what the run has written, unless it came to nothing
    problem: str | None  # why it has not finished, if it has not


@dataclass(frozen=True)
class CategoryResults:
    """What came out of all runs on a category."""

    category: str
    runs: Sequence[RunResult]  # that have been tried
    timing: Mapping[str, Any]
    problem: str | None = None  # why its images cannot be used, if they cannot


def record(about: Mapping[str, Any], categories: Sequence[CategoryResults]) -> dict[str, Any]:
    """Put together all that a report shows."""
    table = [row for category in categories for row in _rows(category)]
    return {
        "about": dict(about),
        "verdicts": {
            category.category: verdict([row for row in table if row["category"] == category.category])
            for category in categories
            if category.problem is None
        },
        "table": table,
        "problems": [sentence for category in categories for sentence in _problems(category)],
        "categories": {
            category.category: {
                "notes": sorted({note for run in category.runs for note in (run.measured or {}).get("notes", [])}),
                "runs": [
                    {"model": run.model, "seed": run.seed, "folder": run.folder.as_posix(), **(run.measured or {})}
                    for run in category.runs
                ],
                "timings": list(category.timing.get("timings", [])),
            }
            for category in categories
        },
    }


def _rows(category: CategoryResults) -> list[Row]:
    rows = []
    for model in dict.fromkeys(run.model for run in category.runs):
        runs = [run for run in category.runs if run.model == model and run.measured is not None]
        row: Row = {"category": category.category, "model": model, "seeds": [run.seed for run in runs]}
        measured = [run.measured for run in runs if run.measured is not None]
        for metric in METRICS:
            row[metric], row[f"{metric}_std"] = mean_and_spread(one["metrics"].get(metric) for one in measured)
        for name in ("fit_seconds", "fit_peak_bytes"):
            values = [one[name] for one in measured if one[name] is not None]
            row[name] = mean(values) if values else None
        exported: dict[str, Any] = next((one["exported"] for one in measured if one["exported"]), {})
        in_float, in_8_bits = exported.get(FLOAT, {}), exported.get(INT8, {})
        row["size_bytes"], row["int8_size_bytes"] = in_float.get("size_bytes"), in_8_bits.get("size_bytes")
        row["score_difference"] = in_float.get("score_difference")
        agreement = in_8_bits.get("agreement", {})
        row["int8_score_correlation"] = agreement.get("score_correlation")
        row["int8_image_AUROC_change"] = _change(agreement, "image_AUROC")
        row["int8_AUPRO_change"] = _change(agreement, "AUPRO")
        timings = [timing for timing in category.timing.get("timings", []) if timing["model"] == model]
        for label, timing in _labelled(timings).items():
            for name in ("median_ms", "p95_ms", "pictures_per_second"):
                row[f"{label}_{name}"] = timing.get(name)
        rows.append(row)
    return rows


def _change(agreement: Mapping[str, Any], metric: str) -> float | None:
    before, after = (agreement.get(f"{kind}_metrics", {}).get(metric) for kind in ("float", "quantized"))
    return None if before is None or after is None else after - before


FORMATS = ("f32", "bf16", "int8")
"""In what an exported model is timed. What INT8 leaves in floating point is in bf16 where the CPU has that."""


def _labelled(timings: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    labelled: dict[str, Mapping[str, Any]] = {label: {} for label in FORMATS}
    for timing in timings:  # of 8 bits the last is kept: bf16 where the CPU has it, as OpenVINO would have it
        labelled["int8" if timing["kind"] == INT8 else timing["precision"]] = timing
    return labelled


def _problems(category: CategoryResults) -> list[str]:
    found = [f"{category.category}: {category.problem}"] if category.problem else []
    for run in category.runs:
        where = f"{category.category}, {run.model}, seed {run.seed}"
        problems = [*([run.problem] if run.problem else []), *(run.measured or {}).get("problems", [])]
        found += [f"{where}: {problem}" for problem in problems]
    if category.timing.get("problem"):
        found.append(f"{category.category}: {category.timing['problem']}")
    return found


def verdict(rows: Sequence[Row]) -> str:
    """Say in a sentence or two which model to deploy on a category.

    Among the models whose accuracy is that of the best, but for the spread over the seeds, it is the fastest. Accuracy
    is the mean of image AUROC and, where all models have one, AUPRO.

    Example:
        >>> measured = {"image_AUROC": 0.9, "image_AUROC_std": None, "AUPRO": None, "seeds": [0]}
        >>> verdict([{"model": "PaDiM", "f32_median_ms": 20.0, **measured}])
        'PaDiM is the most accurate: an image AUROC of 0.900. Deploy PaDiM, which takes 20.0 ms an image...
    """
    judged = [row for row in rows if row["image_AUROC"] is not None]
    if not judged:
        return "No model could be judged."
    by = [metric for metric in ("image_AUROC", "AUPRO") if all(row[metric] is not None for row in judged)]
    accuracy = {row["model"]: mean(row[metric] for metric in by) for row in judged}
    best = max(judged, key=lambda row: accuracy[row["model"]])
    behind = {row["model"]: accuracy[best["model"]] - accuracy[row["model"]] for row in judged}
    equal = [row for row in judged if behind[row["model"]] <= max(_spread(best, by), _spread(row, by))]
    doubts = [
        f"{row['model']} has an image AUROC of {row['CoveredAUROC']:.3f} with the defects covered: it may be right for "
        "another reason."
        for row in judged
        if (row.get("CoveredAUROC") or 0) > MOST_WITH_DEFECTS_COVERED
    ]
    timed = [row for row in equal if row.get("f32_median_ms") is not None]
    said = [f"{best['model']} is the most accurate: {_figures(best)}."]
    if not timed:
        return " ".join([*said, *doubts])
    chosen = min(timed, key=lambda row: row["f32_median_ms"])
    others = [row for row in equal if row is not best]
    if others:
        within = "Within the spread of the seeds" if len(best["seeds"]) > 1 else f"Within {ONE_SEED_SPREAD}"
        names = _list([row["model"] for row in others])
        said.append(f"{within}, {names} {'is' if len(others) == 1 else 'are'} as accurate.")
    fastest = min((row for row in judged if row.get("f32_median_ms")), key=lambda row: row["f32_median_ms"])
    said.append(f"Deploy {chosen['model']}, which takes {chosen['f32_median_ms']:.1f} ms an image in float32")
    if fastest is chosen:
        said[-1] += ", the least of all."
    else:
        times = chosen["f32_median_ms"] / fastest["f32_median_ms"]
        said[-1] += f"; {fastest['model']} is {times:.1f} times as fast, with {_figures(fastest)}."
    return " ".join([*said, *doubts])


def _spread(row: Row, by: Sequence[str]) -> float:
    spreads = [row[f"{metric}_std"] for metric in by if row[f"{metric}_std"] is not None]
    return mean(spreads) if spreads else ONE_SEED_SPREAD


def _figures(row: Row) -> str:
    named = [("image_AUROC", "an image AUROC"), ("AUPRO", "an AUPRO")]
    return _list([f"{name} of {row[metric]:.3f}" for metric, name in named if row[metric] is not None])


def _list(names: Sequence[str]) -> str:
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
