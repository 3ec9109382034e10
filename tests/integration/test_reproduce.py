"""``anomalib-stfpm reproduce`` writes the table, also after errors and interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch

from anomalib_stfpm import Stfpm
from anomalib_stfpm.verbs.reproduce import INTERRUPTED, main
from tests.conftest import CategoryWriter

from .conftest import HEARS_CONTROL_C, assert_same

pytestmark = pytest.mark.integration

METRICS = {"image_AUROC", "pixel_AUROC", "PublishedPRO", "AUPRO"}


@pytest.fixture
def root(write_category: CategoryWriter) -> Path:
    """Two categories, of which one is named as one of MVTec AD's and has no masks."""
    root = write_category("part")
    copytree(root / "part", root / "screw")
    rmtree(root / "screw" / "ground_truth")
    return root


def arguments(root: Path, teacher_file: Path, output: Path, **more: Any) -> list[str]:  # noqa: ANN401
    given = {
        "root": root, "output": output, "model.teacher_weights": teacher_file, "model.input_size": "[64, 64]",
        "model.learning_rate": 0.05, "protocol.max_epochs": 3, "protocol.val_split_ratio": 0.5,
        "protocol.train_batch_size": 1, "protocol.accelerator": "cpu", **more,
    }  # fmt: skip
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def reproduce(*given: str) -> int:
    return main(given)


def results(output: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((output / "results.json").read_text())
    return record


def table(output: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = results(output)["table"]
    return rows


def student(output: Path, run: str) -> dict[str, torch.Tensor]:
    state_dict: dict[str, torch.Tensor] = torch.load(output / run / "student.ckpt", weights_only=True)["state_dict"]
    return state_dict


def test_the_results_hold_every_category_and_seed_and_the_configuration(
    root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "table"
    assert reproduce(*arguments(root, teacher_file, output), "--seeds", "0", "1") == 0
    rows = {row["category"]: row for row in table(output)}
    assert list(rows) == ["part", "screw", "average"]
    assert rows["part"]["seeds"] == rows["screw"]["seeds"] == [0, 1]
    assert rows["part"]["PublishedPRO_std"] is not None
    assert rows["screw"]["pixel_AUROC"] is None
    assert rows["screw"]["image_AUROC_published"] == 0.894651
    assert (output / "results.md").read_text() in capsys.readouterr().out
    runs = results(output)["runs"]
    assert [(run["category"], run["seed"]) for run in runs] == [("part", 0), ("part", 1), ("screw", 0), ("screw", 1)]
    assert set(runs[0]["metrics"]) == METRICS
    assert set(runs[2]["metrics"]) == {"image_AUROC"}
    for run in runs:
        assert run["configuration"]["protocol"]["max_epochs"] == 3
        assert run["configuration"]["model"]["init_args"]["level_weights"] == [2, 2, 2]
        assert run["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
        assert {"cpu", "git_revision"} <= set(run["environment"])
        assert 0 <= run["epoch"] < 3
        assert run["val_error"] > 0
    assert not torch.equal(*(student(output, f"part/seed_{n}")["model.student.backbone.conv1.weight"] for n in (0, 1)))
    assert sorted(path.name for path in (output / "part/seed_0").iterdir()) == ["result.json", "student.ckpt"]
    assert Stfpm.load_from_checkpoint(output / "part/seed_0/student.ckpt").model.teacher_is_loaded


def test_finished_runs_are_kept_and_categories_can_be_added(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "table"
    assert reproduce(*arguments(root, teacher_file, output), "--categories", "part") == 0
    before = {path: path.stat().st_mtime_ns for path in (output / "part").rglob("*")}
    assert reproduce(*arguments(root, teacher_file, output)) == 0
    assert {path: path.stat().st_mtime_ns for path in (output / "part").rglob("*")} == before
    assert [row["category"] for row in table(output)] == ["part", "screw", "average"]


def test_another_configuration_in_the_same_output_folder_is_rejected(
    root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    given = arguments(root, teacher_file, tmp_path / "table")
    assert reproduce(*given, "--categories", "part") == 0
    before = (tmp_path / "table" / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"holds results with protocol\.max_epochs 3, not 4: give another output"):
        reproduce(*given, "--protocol.max_epochs", "4")
    assert (tmp_path / "table" / "results.json").read_bytes() == before


def test_a_missing_or_damaged_category_is_reported_and_the_others_run(
    root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copytree(root / "part", root / "damaged") / "test" / "bad" / "001.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    output = tmp_path / "table"
    given = arguments(root, teacher_file, output)
    assert reproduce(*given, "--categories", "carpet", "damaged", "part") == 1
    complaints = capsys.readouterr().err
    assert f"Missing: carpet: there is no folder '{root / 'carpet'}'." in complaints
    assert f"Missing: damaged: '{damaged}' cannot be used" in complaints
    assert set(results(output)["missing"]) == {"carpet", "damaged"}
    assert [row["category"] for row in table(output)] == ["part", "average"]


def test_a_category_that_fails_in_training_is_reported_and_the_others_run(
    root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = root / "part" / "ground_truth" / "bad" / "001.png"
    mask.rename(mask.with_name("of_another_image.png"))
    output = tmp_path / "table"
    assert reproduce(*arguments(root, teacher_file, output)) == 1
    assert "Missing: part: UnusableFileError: " in capsys.readouterr().err
    assert "Traceback" in (output / "part" / "seed_0" / "error.txt").read_text()
    assert [row["category"] for row in table(output)] == ["screw", "average"]
    mask.with_name("of_another_image.png").rename(mask)
    assert reproduce(*arguments(root, teacher_file, output)) == 0
    assert sorted(path.name for path in (output / "part/seed_0").iterdir()) == ["result.json", "student.ckpt"]


@pytest.mark.usefixtures("no_network")
def test_an_unreachable_teacher_stops_it_before_training(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match="The hub is out of reach"):
        reproduce(*arguments(root, Path("hub"), tmp_path / "table"))
    assert not (tmp_path / "table" / "results.json").exists()


def start(given: list[str]) -> subprocess.Popen[str]:
    command = [str(Path(sys.executable).with_name("anomalib-stfpm")), "reproduce", *given]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env={**os.environ}, **HEARS_CONTROL_C, **pipes)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    for _ in range(1200):
        if path.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    assert path.exists(), process.communicate()[0]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGINT"])
def test_an_interrupted_reproduction_resumes_to_the_same_results(
    how: str, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    epochs = {"protocol.max_epochs": 12}
    interrupted, whole = tmp_path / "interrupted", tmp_path / "whole"
    process = start(arguments(root, teacher_file, interrupted, **epochs))
    wait_for(interrupted / "screw" / "seed_0" / "model.ckpt", process)
    process.send_signal(signal.Signals[how])
    said = process.communicate(timeout=60)[0]
    if how == "SIGINT":
        assert process.returncode == INTERRUPTED, said
        assert said.rstrip().endswith("the same command goes on from the last epoch that was finished.")
    assert not (interrupted / "screw" / "seed_0" / "result.json").exists()
    reached = torch.load(interrupted / "screw" / "seed_0" / "model.ckpt", weights_only=True)["epoch"]
    finished = (interrupted / "part" / "seed_0" / "result.json").stat().st_mtime_ns

    assert reproduce(*arguments(root, teacher_file, interrupted, **epochs)) == 0
    assert reproduce(*arguments(root, teacher_file, whole, **epochs)) == 0
    assert (interrupted / "part" / "seed_0" / "result.json").stat().st_mtime_ns == finished
    assert reached < 11
    assert_same(student(interrupted, "screw/seed_0"), student(whole, "screw/seed_0"))
    assert table(interrupted) == table(whole)
    (screw,) = (run for run in results(interrupted)["runs"] if run["category"] == "screw")
    assert screw["fit_seconds"] is None, "the time of a training that was interrupted is not known"


def test_a_half_written_checkpoint_is_not_resumed_from(
    root: Path, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "table" / "part" / "seed_0"
    run.mkdir(parents=True)
    (run / "model.ckpt").write_bytes(b"PK\x03\x04half a checkpoint")
    assert reproduce(*arguments(root, teacher_file, tmp_path / "table"), "--categories", "part") == 0
    assert "is damaged" in caplog.text
    assert "training starts again" in caplog.text
    assert sorted(path.name for path in run.iterdir()) == ["result.json", "student.ckpt"]
