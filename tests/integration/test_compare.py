"""``anomalib-stfpm compare`` runs each model in its own process, and keeps what is finished after an error."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from anomalib_stfpm.comparison import Conditions, Contestant, compare
from anomalib_stfpm.comparison.run import Job, run
from anomalib_stfpm.verbs.compare import data_of, parser
from tests.conftest import write_image, write_mask
from tests.readme import REPOSITORY

from .conftest import HEARS_CONTROL_C

pytestmark = pytest.mark.integration

RAISES = {"class_path": "tests.integration.broken_models.Raises", "init_args": {"n_features": 20}}
PADIM = {"class_path": "anomalib.models.Padim", "name": "PaDiM", "init_args": {"n_features": 20}}


def written(root: Path, *, masks: bool = True, defects: bool = True) -> Path:
    for index in range(8):
        write_image(root / "part" / "train" / "good" / f"{index:03}.png", seed=index)
    for index in range(3):
        write_image(root / "part" / "test" / "good" / f"{index:03}.png", seed=10 + index)
        if defects:
            write_image(root / "part" / "test" / "bad" / f"{index:03}.png", seed=20 + index, defect=True)
            if masks:
                write_mask(root / "part" / "ground_truth" / "bad" / f"{index:03}.png")
    return root


def data(root: Path) -> dict[str, Any]:
    return {
        "class_path": "anomalib_stfpm.data.MVTecLayout",
        "init_args": {"root": str(root), "category": "part", "train_batch_size": 4, "num_workers": 0},
    }


def conditions(teacher_file: Path, **changes: Any) -> Conditions:  # noqa: ANN401
    tiny: dict[str, Any] = {"input_size": (64, 64), "max_epochs": 2, "accelerator": "cpu"}
    return Conditions(**{"teacher_weights": str(teacher_file), **tiny, **changes})


def start(root: Path, teacher_file: Path, output: Path) -> "subprocess.Popen[str]":
    command = [
        sys.executable, "-m", "anomalib_stfpm_deploy", "compare", "--data", "MVTecLayout", "--data.root", root,
        "--data.category", "part", "--data.train_batch_size", "4", "--data.num_workers", "0",
        "--models", "anomalib_stfpm.Stfpm", json.dumps(PADIM), json.dumps(RAISES), "--output", output,
        "--conditions.teacher_weights", teacher_file, "--conditions.input_size", "[64, 64]",
        "--conditions.max_epochs", "2", "--conditions.accelerator", "cpu", "--conditions.rounds", "1",
        "--conditions.seconds", "0.1",
    ]  # fmt: skip
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(list(map(str, command)), cwd=REPOSITORY, **HEARS_CONTROL_C, **pipes)


def child_of(process: "subprocess.Popen[str]", log: Path) -> psutil.Process:
    """Wait for the run that writes a log."""
    while not (log.is_file() and (children := psutil.Process(process.pid).children())):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    return children[0]


@pytest.fixture(scope="module")
def output(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a comparison that was killed during its second run, and started again."""
    root, folder = written(tmp_path_factory.mktemp("images")), tmp_path_factory.mktemp("compared")
    process = start(root, teacher_file, folder)
    child = child_of(process, folder / "part" / "PaDiM" / "seed_0" / "log.txt")
    process.kill()
    process.communicate()
    child.wait(30)  # it ends with the process that has started it
    kept = {path: path.read_bytes() for path in (folder / "part" / "Stfpm" / "seed_0").glob("*.json")}
    process = start(root, teacher_file, folder)
    said, errors = process.communicate()
    assert process.returncode == 1, errors  # for one of the models fails
    assert "comparison.html" in said
    assert {path: path.read_bytes() for path in kept} == kept
    return folder


@pytest.mark.slow
def test_a_killed_comparison_resumes(output: Path) -> None:
    record = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    assert [row["model"] for row in record["table"]] == ["Stfpm", "PaDiM", "Raises"]
    assert sorted(path.name for path in output.iterdir()) == [
        "comparison.csv", "comparison.html", "comparison.json", "comparison.md", "configuration.json", "part",
    ]  # fmt: skip
    for row in record["table"][:2]:
        assert row["image_AUROC"] > 0.5
        assert row["AUPRO"] > 0
        assert row["score_difference"] < 1e-3
        assert row["fit_seconds"] > 0
        assert row["size_bytes"] > 1e6
        assert row["f32_median_ms"] > 0
        assert row["int8_median_ms"] > 0
    assert (output / "comparison.html").stat().st_size > 1e5


@pytest.mark.slow
def test_the_resumed_run_gives_the_results_of_an_uninterrupted_one(
    output: Path, teacher_file: Path, tmp_path: Path
) -> None:
    interrupted = json.loads((output / "part" / "PaDiM" / "seed_0" / "result.json").read_text(encoding="utf-8"))
    job = json.loads((output / "part" / "PaDiM" / "seed_0" / "job.json").read_text(encoding="utf-8"))
    run(Job(Contestant(**PADIM), conditions(teacher_file), job["data"], seed=0, exports=False), tmp_path)
    again = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    for part in ("metrics", "scores", "curves", "threshold", "images"):
        assert interrupted[part] == again[part]


@pytest.mark.slow
def test_a_model_that_raises_is_reported_and_has_no_metrics(output: Path) -> None:
    record = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    (problem,) = record["problems"]
    assert problem.startswith("part, Raises, seed 0: RuntimeError: nothing can be learned")
    assert problem in (output / "comparison.md").read_text(encoding="utf-8")
    assert record["table"][2]["image_AUROC"] is None


@pytest.mark.slow
def test_another_configuration_in_the_same_output_folder_is_rejected(output: Path, teacher_file: Path) -> None:
    job = json.loads((output / "part" / "PaDiM" / "seed_0" / "job.json").read_text(encoding="utf-8"))
    with pytest.raises(ValueError, match=r"holds results with conditions\.max_epochs 2, not 3"):
        compare(
            {"part": job["data"]},
            [Contestant(**PADIM)],
            conditions(teacher_file, max_epochs=3, rounds=1, seconds=0.1),
            output,
        )


@pytest.mark.slow
def test_an_exported_model_that_cannot_be_loaded_is_reported_and_the_others_are_timed(
    output: Path, teacher_file: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(output, copy)
    job = json.loads((copy / "part" / "PaDiM" / "seed_0" / "job.json").read_text(encoding="utf-8"))
    (in_8_bits,) = (copy / "part" / "PaDiM" / "seed_0" / "int8").rglob("model.xml")
    in_8_bits.write_text("no model")
    longer = conditions(teacher_file, time_limit=90, rounds=1, seconds=0.1)
    record = compare({"part": job["data"]}, [Contestant(**PADIM)], longer, copy)
    assert record["problems"] == [f"part: OpenVINO cannot load {in_8_bits}."]
    (row,) = record["table"]
    assert row["f32_median_ms"] > 0
    assert row["int8_median_ms"] is None


def test_a_model_that_takes_too_long_is_stopped(teacher_file: Path, tmp_path: Path) -> None:
    short = conditions(teacher_file, time_limit=0.01)
    record = compare({"part": data(written(tmp_path / "images"))}, [Contestant(**PADIM)], short, tmp_path / "output")
    assert record["problems"] == ["part, PaDiM, seed 0: It was stopped after 0.01 minutes, the time_limit."]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
def test_a_model_that_the_system_kills_is_reported(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -9 $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    images = {"part": data(written(tmp_path / "images"))}
    record = compare(images, [Contestant(**PADIM)], conditions(teacher_file), tmp_path / "output")
    assert record["problems"] == ["part, PaDiM, seed 0: The system killed it, most likely because memory ran out."]


@pytest.mark.parametrize(
    ("masks", "defects", "note", "measured"),
    [
        (False, True, "There are no masks", {"image_AUROC", "image_F1Score"}),
        (True, False, "There is no defective test image", set()),
    ],
)
def test_missing_masks_and_missing_defects_are_noted(
    masks: bool, defects: bool, note: str, measured: set[str], teacher_file: Path, tmp_path: Path
) -> None:
    root = written(tmp_path / "images", masks=masks, defects=defects)
    run(Job(Contestant(**PADIM), conditions(teacher_file), data(root), seed=0, exports=False), tmp_path)
    result = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert any(sentence.startswith(note) for sentence in result["notes"])
    assert {name for name, value in result["metrics"].items() if value is not None} == measured


def test_a_category_without_images_is_reported(teacher_file: Path, tmp_path: Path) -> None:
    images = {"gone": data(tmp_path / "gone")}
    record = compare(images, [Contestant(**PADIM)], conditions(teacher_file), tmp_path / "output")
    (problem,) = record["problems"]
    assert problem.startswith("gone: its images cannot be found (")
    assert "is not in MVTec AD's layout: it has no folder 'train/good'" in problem


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
def test_control_c_stops_the_run_and_says_how_to_go_on(teacher_file: Path, tmp_path: Path) -> None:
    process = start(written(tmp_path / "images"), teacher_file, tmp_path / "output")
    child = child_of(process, tmp_path / "output" / "part" / "Stfpm" / "seed_0" / "log.txt")
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command goes on" in said
    assert not child.is_running()


def test_several_categories_of_a_datamodule_are_compared(tmp_path: Path) -> None:
    given = parser().parse_args(["--data", "MVTecAD", "--data.root", str(tmp_path), "--categories", "bottle", "cable"])
    by_category = data_of(given)
    assert {name: one["init_args"]["category"] for name, one in by_category.items()} == {
        "bottle": "bottle", "cable": "cable",
    }  # fmt: skip
    one = parser().parse_args(["--data", "MVTecAD", "--data.category", "bottle"])
    assert list(data_of(one)) == ["bottle"]
    folder = ["--data", "Folder", "--data.name", "parts", "--data.normal_dir", "good"]
    assert list(data_of(parser().parse_args(folder))) == ["parts"]
    with pytest.raises(ValueError, match="Folder knows no categories"):
        data_of(parser().parse_args([*folder, "--categories", "bottle"]))


@pytest.mark.slow
def test_no_temporary_file_is_left(output: Path) -> None:
    assert list(output.rglob(".*")) == []
