"""Every command of the README and the docs works. They run in their order, on small images and with random weights."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest
import torch
from anomalib.cli import AnomalibCLI

from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.cli import VERBS as TRAINING_VERBS
from anomalib_stfpm_deploy import cli
from tests import readme
from tests.conftest import random_weights, write_image, write_mask
from tests.readme import COMMANDS, REPOSITORY
from tests.unit.reproduction.test_original_checkpoint import publish, random_resnet

pytestmark = pytest.mark.integration

# Added to make a command short.
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
    "train-all": ["--protocol.max_epochs", "1", "--protocol.accelerator", "cpu"],
    "compare": [
        "--models", "anomalib_stfpm.Stfpm", "--seeds", "0", "--conditions.max_epochs", "1",
        "--conditions.accelerator", "cpu", "--conditions.rounds", "1", "--conditions.seconds", "0.1",
    ],
}  # fmt: skip
MADE = {
    "anomalib train": "results/Stfpm/*/*/v*/images/**/*.png",
    "anomalib test": "results/Stfpm/MVTecLayout/screw/v*/images/bent/0.png",
    "anomalib predict": "results/Stfpm/**/new_images/0.png",
    "anomalib export": "**/weights/openvino/model.xml",
    "anomalib-stfpm infer": "found/results.csv",
    "anomalib-stfpm reproduce": "results/*/results.md",
    "anomalib-stfpm train-all": "models*/screw/weights/openvino/model.xml",
    "anomalib-stfpm import-checkpoint": "student.ckpt",
    "anomalib-stfpm compare": "results/*/comparison.html",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the commands use."""
    folder = tmp_path_factory.mktemp("workshop")
    for root, categories in (("images", ("bolt", "screw")), ("datasets/MVTecAD", ("bottle", "carpet", "screw"))):
        for category in categories:
            for index in range(10):
                write_image(folder / root / category / "train" / "good" / f"{index}.png", seed=index)
            for index in range(2):
                write_image(folder / root / category / "test" / "good" / f"{index}.png", seed=index)
                write_image(folder / root / category / "test" / "bent" / f"{index}.png", seed=index, defect=True)
                write_mask(folder / root / category / "ground_truth" / "bent" / f"{index}.png")
    for index in range(10):
        write_image(folder / "my_images" / "good" / f"{index}.png", seed=index)
        write_image(folder / "my_images" / "defective" / f"{index}.png", seed=index, defect=True)
    write_image(folder / "new_images" / "0.png", seed=0)
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


def test_every_verb_is_shown() -> None:
    shown = {command.split()[1] for command in COMMANDS if command.startswith("anomalib")}
    assert shown >= {"train", "test", "predict", "export", *TRAINING_VERBS, *cli.VERBS}


# anomalib's pipelines have no option that makes them short: test_cli.py and test_tiling.py run shorter configurations.
PIPELINES = "anomalib(?!-stfpm (benchmark|tiled-ensemble))"
# Two comparisons, several reproductions, clusters, and images of more than 256 x 256.
SLOW = (
    "anomalib-stfpm (compare|reproduce|train-all|.*--cluster)"
    "|anomalib train --config configs/(quickstart|tiled|high_resolution)"
)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(one, marks=pytest.mark.slow if re.match(SLOW, one) else ())
        for one in COMMANDS
        if re.match(PIPELINES, one)
    ],
)
def test_a_command_makes_its_files(command: str, workshop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program, verb, *arguments = shlex.split(command)
    arguments += SHORTER.get(verb, [])
    if program == "anomalib":
        AnomalibCLI([verb, *arguments])
    else:
        monkeypatch.setattr(sys, "argv", [program, verb, *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 0
    made = "scores" if "--output scores" in command else MADE.get(f"{program} {verb}")
    assert made is None or list(workshop.glob(made))


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("python -c ")])
def test_a_line_of_python_prints_something(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(shlex.split(command)[2], {})
    assert capsys.readouterr().out.strip()


def test_the_published_pro_is_timed() -> None:
    command = [
        *readme.command("python -m benchmarks.per_region_overlap"),
        "--maps",
        "2",
        "--size",
        "32",
        "--repeat",
        "1",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    assert done.stdout.strip()


def test_all_other_commands_install_or_measure() -> None:
    others = [one for one in COMMANDS if not one.startswith("anomalib")]
    assert {one.split()[0] for one in others} == {"pip", "pytest", "python"}
    measuring = [one.split()[2] for one in others if one.startswith("python -m ")]
    tests = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests" / "integration").glob("test_*.py")]
    joined = "\n".join(tests)
    assert [
        name for name in measuring if f'command("python -m {name}' not in joined and f'"-m", "{name}"' not in joined
    ] == []
