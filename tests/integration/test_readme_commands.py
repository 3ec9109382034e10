"""Every command of the README does what it is shown for, one after the other, on small pictures and random weights."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest
import torch
from anomalib.cli import AnomalibCLI

from anomalib_stfpm import teacher_weights
from anomalib_stfpm.cli import VERBS as TRAINING_VERBS
from anomalib_stfpm_deploy import cli
from tests.conftest import random_weights, write_mask, write_picture
from tests.readme import COMMANDS, REPOSITORY
from tests.unit.test_original_checkpoint import publish, random_resnet

pytestmark = pytest.mark.integration

# What makes a command short. All else is as it is written.
QUICK_TRAINER = ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
SHORTER = {
    "train": [
        *QUICK_TRAINER, "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1",
        "--trainer.strategy", "auto", "--trainer.devices", "1", "--trainer.num_nodes", "1",
    ],
    "test": QUICK_TRAINER,
    "predict": QUICK_TRAINER,
    "export": QUICK_TRAINER,
    "time": ["--rounds", "1", "--seconds", "0.1"],
    "reproduce": [
        "--categories", "screw", "--seeds", "0", "--protocol.max_epochs", "1", "--protocol.accelerator", "cpu",
    ],
    "compare": [
        "--models", "anomalib_stfpm.Stfpm", "--seeds", "0", "--conditions.max_epochs", "1",
        "--conditions.accelerator", "cpu", "--conditions.rounds", "1", "--conditions.seconds", "0.1",
    ],
}  # fmt: skip
MADE = {
    "anomalib train": "results/Stfpm/*/*/v*/images/*/*.png",
    "anomalib test": "results/Stfpm/MVTecLayout/screw/v*/images/bent/0.png",
    "anomalib predict": "results/Stfpm/**/new_pictures/0.png",
    "anomalib export": "**/weights/openvino/model.xml",
    "anomalib-stfpm infer": "found/results.csv",
    "anomalib-stfpm reproduce": "results/*/results.md",
    "anomalib-stfpm import-checkpoint": "student.ckpt",
    "anomalib-stfpm compare": "results/*/comparison.html",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the README takes for granted."""
    folder = tmp_path_factory.mktemp("workshop")
    for root, categories in (("pictures", ("bolt", "screw")), ("datasets/MVTecAD", ("bottle", "carpet", "screw"))):
        for category in categories:
            for index in range(10):
                write_picture(folder / root / category / "train" / "good" / f"{index}.png", seed=index)
            for index in range(2):
                write_picture(folder / root / category / "test" / "good" / f"{index}.png", seed=index)
                write_picture(folder / root / category / "test" / "bent" / f"{index}.png", seed=index, defect=True)
                write_mask(folder / root / category / "ground_truth" / "bent" / f"{index}.png")
    write_picture(folder / "new_pictures" / "0.png", seed=0)
    copytree(REPOSITORY / "configs", folder / "configs")
    torch.save(random_weights("resnet50"), folder / "resnet50.pth")
    publish(random_resnet(0), folder / "best.pth.tar")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        read = teacher_weights.read
        monkeypatch.setattr(
            teacher_weights,
            "read",
            lambda backbone, source: random_weights(backbone) if source == "hub" else read(backbone, source),
        )
        yield folder


def test_the_readme_shows_every_verb() -> None:
    shown = {command.split()[1] for command in COMMANDS if command.startswith("anomalib")}
    assert shown >= {"train", "test", "predict", "export", *TRAINING_VERBS, *cli.VERBS}


# anomalib's pipelines have no option that makes them short: test_cli.py and test_tiling.py run shorter configurations.
PIPELINES = "anomalib(?!-stfpm (benchmark|tiled-ensemble))"


@pytest.mark.parametrize("command", [one for one in COMMANDS if re.match(PIPELINES, one)])
def test_a_command_does_what_it_is_shown_for(command: str, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, verb, *arguments = shlex.split(command)
    arguments += SHORTER.get(verb, [])
    if program == "anomalib":
        AnomalibCLI([verb, *arguments])
    else:
        monkeypatch.setattr(sys, "argv", [program, verb, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    made = MADE.get(f"{program} {verb}")
    assert made is None or list(workshop.glob(made))


def test_all_others_install_or_measure() -> None:
    others = [one for one in COMMANDS if not one.startswith("anomalib")]
    assert {one.split()[0] for one in others} == {"pip", "pytest", "python"}
    measuring = [one.split()[2] for one in others if one.startswith("python -m ")]
    benchmarks = (REPOSITORY / "tests" / "integration" / "test_benchmarks.py").read_text(encoding="utf-8")
    assert [name for name in measuring if f'command("python -m {name}")' not in benchmarks] == []
