"""Every figure and every sentence of a report is made from the runs."""

from pathlib import Path

import pytest

from anomalib_stfpm.comparison.record import CategoryResults, RunResult, record

from .records import compared, measured


def test_metrics_are_means_and_spreads_over_the_seeds(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, {"A": [0.8, 0.9]}, {"A": 20})["table"]
    assert (row["model"], row["seeds"]) == ("A", [0, 1])
    assert (row["image_AUROC"], row["image_AUROC_std"]) == (pytest.approx(0.85), pytest.approx(0.0707, abs=1e-4))
    assert (row["fit_seconds"], row["fit_peak_bytes"], row["size_bytes"]) == (10, 2e9, 5e6)


def test_formats_are_told_apart(tmp_path: Path) -> None:
    (row,) = compared(tmp_path, {"A": [0.8]}, {"A": 20})["table"]
    assert [row[f"{name}_median_ms"] for name in ("f32", "bf16", "int8")] == [20, 14, 8]
    assert row["f32_p95_ms"] == 40
    assert row["int8_image_AUROC_change"] == pytest.approx(-0.002)
    assert row["int8_AUPRO_change"] == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("accuracies", "milliseconds", "verdict"),
    [
        (
            {"A": [0.95, 0.97], "B": [0.80, 0.80]},
            {"A": 20, "B": 10},
            "A is the most accurate: an image AUROC of 0.960 and an AUPRO of 0.960. Deploy A, which takes 20.0 ms an "
            "image in float32; B is 2.0 times as fast, with an image AUROC of 0.800 and an AUPRO of 0.800.",
        ),
        (
            {"A": [0.95, 0.97], "B": [0.94, 0.96], "C": [0.5, 0.5]},
            {"A": 20, "B": 10, "C": 30},
            "A is the most accurate: an image AUROC of 0.960 and an AUPRO of 0.960. Within the spread of the seeds, B "
            "is as accurate. Deploy B, which takes 10.0 ms an image in float32, the least of all.",
        ),
        ({"A": [0.9]}, {}, "A is the most accurate: an image AUROC of 0.900 and an AUPRO of 0.900."),
        (
            {"A": [0.9], "B": [0.896]},
            {"A": 20, "B": 10},
            "A is the most accurate: an image AUROC of 0.900 and an AUPRO of 0.900. Within 0.005, B is as accurate. "
            "Deploy B, which takes 10.0 ms an image in float32, the least of all.",
        ),
    ],
)
def test_the_verdict_follows_from_the_figures(
    accuracies: dict[str, list[float]], milliseconds: dict[str, float], verdict: str, tmp_path: Path
) -> None:
    assert compared(tmp_path, accuracies, milliseconds)["verdicts"] == {"part": verdict}


def test_a_model_that_is_right_for_another_reason_is_named(tmp_path: Path) -> None:
    runs = [
        RunResult(
            model, 0, Path(model), measured(tmp_path, metrics={"image_AUROC": 0.9, "CoveredAUROC": covered}), None
        )
        for model, covered in {"A": 0.85, "B": 0.55}.items()
    ]
    said = record({}, [CategoryResults("part", runs, {})])["verdicts"]["part"]
    assert "A has an image AUROC of 0.850 with the defects covered: it may be right for another reason." in said
    assert "B has" not in said


def test_a_model_without_maps_is_judged_by_what_all_have(tmp_path: Path) -> None:
    without = {"image_AUROC": 0.92, "image_F1Score": 0.9, "pixel_AUROC": None, "AUPRO": None}
    located = {"image_AUROC": 0.98, "image_F1Score": 0.9, "pixel_AUROC": 0.9, "AUPRO": 0.8}
    runs = [
        RunResult(model, 0, Path(model), measured(tmp_path, metrics=metrics), None)
        for model, metrics in {"A": without, "B": located}.items()
    ]
    assert record({}, [CategoryResults("part", runs, {})])["verdicts"]["part"].startswith("B is the most accurate")


def test_problems_are_said_and_cost_nothing_else(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("image_AUROC", "image_F1Score", "pixel_AUROC", "AUPRO"))
    runs = [
        RunResult("A", 0, tmp_path, None, "It was stopped after 5 minutes, the time_limit."),
        RunResult("B", 0, tmp_path, measured(tmp_path, problems=["The export to int8 failed: RuntimeError: no"]), None),
        RunResult("C", 0, tmp_path, measured(tmp_path, metrics=nothing, notes=["There are no masks."]), None),
    ]
    made = record({}, [CategoryResults("part", runs, {}), CategoryResults("gone", [], {}, "its images are gone.")])
    assert made["problems"] == [
        "part, A, seed 0: It was stopped after 5 minutes, the time_limit.",
        "part, B, seed 0: The export to int8 failed: RuntimeError: no",
        "gone: its images are gone.",
    ]
    assert [row["image_AUROC"] for row in made["table"]] == [None, 0.9, None]
    assert made["verdicts"]["part"].startswith("B is the most accurate")
    assert made["categories"]["part"]["notes"] == ["There are no masks."]


def test_without_a_judged_model_there_is_no_verdict() -> None:
    made = record({}, [CategoryResults("part", [RunResult("A", 0, Path(), None, "It failed.")], {})])
    assert made["verdicts"] == {"part": "No model could be judged."}
