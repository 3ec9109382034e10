"""An interrupted training resumes to the student of an uninterrupted one."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.cli import AnomalibCLI
from anomalib.engine.plugins import AnomalibCheckpointIO
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.training.interruption import how_to_go_on
from tests.conftest import CategoryWriter
from tests.readme import REPOSITORY

from .conftest import HEARS_CONTROL_C, quiet_engine, tiny_model

pytestmark = pytest.mark.integration

GO_ON = "Interrupted. To go on after the last finished epoch: "
FOREVER = 100_000


def arguments(root: Path, teacher_file: Path, results: Path) -> list[str]:
    given = [
        "train", "--seed_everything", "0", "--model", "anomalib_stfpm.Stfpm", "--model.teacher_weights", teacher_file,
        "--model.input_size", "[64, 64]", "--model.visualizer", "false",
        "--data", "anomalib_stfpm.data.MVTecLayout", "--data.root", root, "--data.category", "part",
        "--data.num_workers", "0", "--data.val_split_mode", "from_train", "--data.val_split_ratio", "0.5",
        "--trainer.accelerator", "cpu", "--trainer.max_epochs", FOREVER, "--default_root_dir", results,
    ]  # fmt: skip
    return [str(part) for part in given]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL and fork")
def test_a_training_killed_at_any_moment_resumes_to_the_same_student(tmp_path: Path) -> None:
    command = [
        sys.executable, "-m", "benchmarks.reliability.killed_training", "--kills", "3", "--epochs", "6",
        "--output", tmp_path,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "killed_training.json").read_text(encoding="utf-8"))
    assert report["kills"] == 3
    assert report["trainings"] == report["same"] > 0
    assert report["unreadable"] == []


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
@pytest.mark.parametrize(
    ("command", "how", "code"),
    [
        pytest.param("anomalib", "SIGTERM", 128 + signal.SIGTERM, marks=pytest.mark.slow),
        ("anomalib-stfpm", "SIGINT", 1),
    ],
)
def test_an_interrupted_command_prints_the_command_that_resumes_it(
    command: str, how: str, code: int, write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    given = arguments(write_category("part"), teacher_file, tmp_path)
    process = subprocess.Popen(
        [Path(sys.executable).with_name(command), *given],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **HEARS_CONTROL_C,
    )  # fmt: skip
    weights = tmp_path / "Stfpm" / "MVTecLayout" / "part" / "v0" / "weights" / "lightning"
    while not (weights / "model.ckpt").exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.Signals[how])
    said = process.communicate(timeout=60)[0]
    assert process.returncode == code, said
    (go_on,) = {line.partition(GO_ON)[2] for line in said.splitlines() if f"{GO_ON}{command} " in line}
    assert shlex.split(go_on) == [command, *given, "--ckpt_path", str(weights / "model.ckpt")]
    finished = torch.load(weights / "model.ckpt", weights_only=True)["epoch"]
    two_more = ["--trainer.max_epochs", str(finished + 3)]
    trainer = AnomalibCLI([*shlex.split(go_on)[1:], *two_more]).engine.trainer
    assert str(trainer.ckpt_path) == str(weights / "model.ckpt")
    last = Path(trainer.default_root_dir) / "weights" / "lightning" / "model.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] == finished + 2


def test_the_resume_command_replaces_the_given_checkpoint() -> None:
    for before in (["--ckpt_path", "old.ckpt"], ["--ckpt_path=old.ckpt"]):
        said = how_to_go_on(["anomalib", "fit", *before, "--model", "a b"], Path("new.ckpt"))
        assert said == f"{GO_ON}anomalib fit --model 'a b' --ckpt_path new.ckpt"


def test_the_resume_message_fits_scripts_and_trainings_without_a_checkpoint() -> None:
    assert how_to_go_on(["train.py", "train"], Path("model.ckpt")).endswith("train with ckpt_path='model.ckpt'.")
    assert "train with ckpt_path" in how_to_go_on(["anomalib-stfpm", "reproduce"], Path("model.ckpt"))
    assert "starts from the beginning" in how_to_go_on(["anomalib", "train"], None)


class Look(Callback):
    """See what is in the folder of checkpoints when the first batch is there, and end the training."""

    def __init__(self) -> None:
        self.there: list[Path] = []
        self.checkpoint_io: Any = None

    def on_train_batch_start(self, trainer: Any, *args: object) -> None:  # noqa: ANN401
        del args
        self.there = sorted(Path(trainer.checkpoint_callback.dirpath).glob("*"))
        self.checkpoint_io = trainer.strategy.checkpoint_io
        raise KeyboardInterrupt


def test_a_resumed_training_has_a_checkpoint_in_its_new_folder_from_the_start(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule = MVTecLayout(root=write_category("part"), category="part", num_workers=0)
    first = quiet_engine(tmp_path)
    first.fit(tiny_model(teacher_file), datamodule=datamodule)
    before = Path(first.best_model_path)
    look = Look()
    with pytest.raises(SystemExit):
        quiet_engine(tmp_path, max_epochs=3, callbacks=[look]).fit(
            tiny_model(teacher_file), datamodule=datamodule, ckpt_path=before
        )
    (there,) = look.there
    assert there.parents[2].name == "v1"
    assert there.name == before.name
    assert there.read_bytes() == before.read_bytes()
    assert f"train with ckpt_path='{there}'" in caplog.text
    last = quiet_engine(tmp_path, max_epochs=2)
    last.fit(tiny_model(teacher_file), datamodule=datamodule, ckpt_path=there)
    (written,) = (tmp_path / "Stfpm" / "MVTecLayout" / "part" / "v2" / "weights" / "lightning").iterdir()
    assert written == Path(last.best_model_path)
    assert torch.load(written, weights_only=True)["epoch"] == 1


def test_a_training_interrupted_in_its_first_epoch_says_that_it_starts_again(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    datamodule = MVTecLayout(root=write_category("part"), category="part", num_workers=0)
    with pytest.raises(SystemExit):
        quiet_engine(tmp_path, callbacks=[Look()]).fit(tiny_model(teacher_file), datamodule=datamodule)
    assert "Interrupted before the first checkpoint was written: training starts from the beginning" in caplog.text


class OwnCheckpointIO(TorchCheckpointIO):
    """What a user writes checkpoints with."""


@pytest.mark.parametrize("own", [OwnCheckpointIO, None])
def test_checkpoints_are_written_atomically_unless_the_user_gives_a_checkpoint_io(
    own: type[TorchCheckpointIO] | None, write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    look, plugins = Look(), [] if own is None else [own()]
    datamodule = MVTecLayout(root=write_category("part"), category="part", num_workers=0)
    with pytest.raises(SystemExit):
        quiet_engine(tmp_path, callbacks=[look], plugins=plugins).fit(tiny_model(teacher_file), datamodule=datamodule)
    assert type(look.checkpoint_io).__name__ == ("SafeCheckpointIO" if own is None else own.__name__)
    assert isinstance(look.checkpoint_io, AnomalibCheckpointIO if own is None else own)
