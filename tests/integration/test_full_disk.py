"""On a full disk the last good files stay in place, and the error names the file that cannot be written."""

import json
import shutil
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import Engine
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.verbs.compare import main as compare
from anomalib_stfpm.verbs.reproduce import main as reproduce
from tests.conftest import CategoryWriter, write_image

from .conftest import full_disk, quiet_engine, tiny_model, trained_for_a_step
from .test_compare import PADIM, written

pytestmark = pytest.mark.integration

KILOBYTES_200 = 200_000
"""Less than a network, more than a text."""


class FullFromEpoch(Callback):
    """Fill the disk when an epoch starts."""

    def __init__(self, epoch: int, stack: ExitStack) -> None:
        self.epoch = epoch
        self.stack = stack

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        del pl_module
        if trainer.current_epoch == self.epoch:
            self.stack.enter_context(full_disk(KILOBYTES_200))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_training_keeps_the_last_checkpoints(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_category("part")
    monkeypatch.setattr("anomalib_stfpm.checkpoint.safe_io.SECONDS_BETWEEN", 0.0)

    def fit(*callbacks: Callback, **trainer: Any) -> Engine:  # noqa: ANN401
        torch.manual_seed(0)
        engine = quiet_engine(tmp_path, callbacks=[*callbacks], **trainer)
        datamodule = MVTecLayout(
            root=root, category="part", num_workers=0, val_split_mode="from_train", val_split_ratio=0.5, seed=0
        )
        engine.fit(tiny_model(teacher_file), datamodule=datamodule)
        return engine

    with ExitStack() as stack, pytest.raises(OSError, match=r"ckpt' cannot be written \(File too large\)"):
        fit(FullFromEpoch(2, stack), max_epochs=4)
    weights = tmp_path / "Stfpm" / "MVTecLayout" / "part" / "v0" / "weights" / "lightning"
    assert sorted(path.name for path in weights.iterdir()) == ["best.ckpt", "model.ckpt"]
    assert torch.load(weights / "model.ckpt", weights_only=True)["epoch"] == 1
    assert "state_dict" in torch.load(weights / "best.ckpt", weights_only=True)


@pytest.mark.parametrize("export", ["to_torch", pytest.param("to_openvino", marks=pytest.mark.slow)])
def test_an_export_keeps_the_last_model(export: str, tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18", (64, 64))
    getattr(model, export)(tmp_path)
    before = contents(tmp_path)
    with full_disk(KILOBYTES_200), pytest.raises(OSError, match=r"' cannot be written \(File too large\)"):
        getattr(model, export)(tmp_path)
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_infer_keeps_the_last_results_and_resumes_when_there_is_room(exported: Path, tmp_path: Path) -> None:
    for seed in range(8):
        write_image(tmp_path / "images" / f"{seed}.png", seed)
    command = [
        sys.executable, "-m", "anomalib_stfpm_deploy", "infer", "--model", exported, "--input", tmp_path / "images",
        "--output", tmp_path / "found", "--no-pictures",
    ]  # fmt: skip

    def infer(limit: int | None = None) -> "subprocess.CompletedProcess[str]":
        with ExitStack() as stack:
            if limit is not None:
                stack.enter_context(full_disk(limit))
            return subprocess.run(command, capture_output=True, text=True, check=False)

    assert infer().returncode == 0
    before = contents(tmp_path / "found")
    for seed in range(8, 30):
        write_image(tmp_path / "images" / f"{seed}.png", seed)
    stopped = infer(1000)
    assert stopped.returncode == 120
    assert stopped.stderr.startswith("anomalib-stfpm: error: '")
    assert stopped.stderr.endswith("results.partial.jsonl' cannot be written (File too large).\n"), stopped.stderr
    after = contents(tmp_path / "found")
    assert {name: after[name] for name in before} == before
    assert infer().returncode == 0
    record = json.loads((tmp_path / "found" / "results.json").read_text(encoding="utf-8"))
    assert len(record["results"]) == 30
    assert sorted(contents(tmp_path / "found")) == ["coco.json", "results.csv", "results.json"]


def test_reproduce_keeps_the_last_table_and_resumes_when_there_is_room(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = write_category("part"), tmp_path / "table"
    shutil.copytree(root / "part", root / "other")
    given = [
        "--root", root, "--output", output, "--model.teacher_weights", teacher_file, "--model.input_size", "[64, 64]",
        "--protocol.max_epochs", "1", "--protocol.val_split_ratio", "0.5", "--protocol.accelerator", "cpu",
    ]  # fmt: skip
    run = partial(reproduce, [str(part) for part in given])
    assert reproduce([*map(str, given), "--categories", "part"]) == 0
    before = contents(output / "part")
    with full_disk(KILOBYTES_200):
        assert run() == 1
    assert "Missing: other: OSError: '" in capsys.readouterr().err
    assert contents(output / "part") == before
    record = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert [one["category"] for one in record["runs"]] == ["part"]
    with full_disk(10), pytest.raises(OSError, match=r"' cannot be written \(File too large\)"):
        run()
    assert json.loads((output / "results.json").read_text(encoding="utf-8")) == record
    assert run() == 0


@pytest.mark.slow
def test_compare_keeps_finished_runs_and_resumes_when_there_is_room(teacher_file: Path, tmp_path: Path) -> None:
    root, output = written(tmp_path), tmp_path / "compared"
    given = [
        "--data", "MVTecLayout", "--data.root", root, "--data.category", "part", "--data.num_workers", "0",
        "--models", json.dumps(PADIM), "--output", output, "--conditions.teacher_weights", teacher_file,
        "--conditions.input_size", "[64, 64]", "--conditions.accelerator", "cpu", "--conditions.rounds", "1",
        "--conditions.seconds", "0.1", "--seeds", "0",
    ]  # fmt: skip
    run = partial(compare, list(map(str, given)))
    both_seeds = partial(compare, [*map(str, given), "1"])
    assert run() == 0
    finished = output / "part" / "PaDiM" / "seed_0"
    before = contents(finished)
    with full_disk(KILOBYTES_200):
        assert both_seeds() == 1
    assert contents(finished) == before
    assert "File too large" in (output / "comparison.md").read_text(encoding="utf-8")
    assert both_seeds() == 0
    assert contents(finished) == before
    assert "File too large" not in (output / "comparison.md").read_text(encoding="utf-8")
