"""Command lines that are wrong, of every verb, and of anomalib's own command with this package's model."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from anomalib.cli.cli import main as anomalib

from tests.conftest import write_picture

from .harness import Run, assert_refused, in_this_process, untouched

pytestmark = pytest.mark.integration

MODEL = ("--model", "anomalib_stfpm.Stfpm")
DEMO = ("--data", "anomalib_stfpm.data.TextureDemo", "--data.root", "demo")
COMPARE = ("compare", *DEMO, "--output", "out")
REPRODUCE = ("reproduce", "--root", "pictures", "--output", "out", "--model.teacher_weights", "weights.pth")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a category, a file that is no model and none that is weights."""
    monkeypatch.chdir(tmp_path)
    for folder in ("train/good", "test/good", "test/bad"):
        write_picture(tmp_path / "pictures" / "part" / folder / "0.png", seed=0)
    (tmp_path / "empty").mkdir()
    for name in ("text.xml", "text.bin", "text.onnx", "text.txt", "model.pt", "config.yaml", "alone.xml"):
        (tmp_path / name).write_text("no: [model", encoding="utf-8")
    return tmp_path


VERBS: list[tuple[Sequence[str], str]] = [
    # infer
    (("infer",), "the following arguments are required: --model, --input, --output"),
    (("infer", "--model", "nothing.xml", "--input", "pictures"), "the following arguments are required: --output"),
    (("infer", "--model", "nothing.xml", "--input", "pictures", "--output", "out"), "'nothing.xml', a file of the mod"),
    (("infer", "--model", "alone.xml", "--input", "pictures", "--output", "out"), "'alone.bin', a file of the model, d"),
    (("infer", "--model", "text.xml", "--input", "pictures", "--output", "out"), "'text.xml' cannot be read as a model"),
    (("infer", "--model", "text.onnx", "--input", "pictures", "--output", "out"), "'text.onnx' cannot be read as a mod"),
    (("infer", "--model", "model.pt", "--input", "pictures", "--output", "out"), "A model is an .xml or an .onnx file"),
    (("infer", "--model", "pictures", "--input", "pictures", "--output", "out"), "A model is an .xml or an .onnx file"),
    (("infer", "--model", "text.xml", "--input", "nowhere", "--output", "out"), "'nowhere' does not exist."),
    (("infer", "--model", "text.xml", "--input", "empty", "--output", "out"), "There are no pictures in empty"),
    (("infer", "--model", "text.xml", "--input", "pictures", "--output", "out", "--precision", "f64"), "invalid choice"),
    (("infer", "--model", "text.xml", "--input", "pictures", "--output", "out", "--streams", "0"), "must be at least 1"),
    (("infer", "--model", "text.xml", "--input", "pictures", "--output", "out", "--streams", "x"), "invalid int value"),
    (("infer", "--model", "text.xml", "--input", "pictures", "--output", "out", "--more"), "unrecognized arguments: --m"),
    # time
    (("time",), "the following arguments are required: --model"),
    (("time", "--model", "nothing.xml"), "'nothing.xml', a file of the model, does not exist."),
    (("time", "--model", "text.xml"), "'text.xml' cannot be read as a model: export it again."),
    (("time", "--model", "text.xml", "--rounds", "0"), "--rounds and --seconds must be positive: got 0 and 5.0."),
    (("time", "--model", "text.xml", "--seconds", "nan"), "--rounds and --seconds must be positive: got 30 and nan."),
    (("time", "--model", "text.xml", "--seconds", "inf"), "--rounds and --seconds must be positive: got 30 and inf."),
    (("time", "--model", "text.xml", "--precision", "f64"), "invalid choice: 'f64'"),
    # compare
    (("compare",), "Option 'data' is required"),
    (("compare", "--data", "Nothing"), "Nothing"),
    (("compare", "--config", "nothing.yaml"), "nothing.yaml"),
    (("compare", "--config", "config.yaml"), "config"),
    (("compare", "--data", "anomalib.models.Padim"), "Padim"),
    ((*COMPARE, "--models", "os.system"), "'os.system' is not the class path of a AnomalibModule"),
    ((*COMPARE, "--models", "anomalib.models.Nothing"), "'anomalib.models.Nothing' is not the class path of a"),
    ((*COMPARE, "--models", "[1, 2]"), "models"),
    ((*COMPARE, "--models", "{class_path: anomalib.models.Padim, epochs: 3}"), "'epochs' is not known in"),
    ((*COMPARE, "--models", "{name: Padim}"), "class_path is missing in"),
    ((*COMPARE, "--models", "{class_path: anomalib.models.Padim, max_epochs: 0}"), "max_epochs of a model must be at le"),
    ((*COMPARE, "--models", "anomalib.models.Padim", "anomalib.models.Padim"), "models must be at least one, with names"),
    ((*COMPARE, "--seeds", "-1"), "seeds must be at least one number from 0 to 4294967295, each once: got [-1]."),
    ((*COMPARE, "--seeds", "1", "1"), "each once: got [1, 1]."),
    ((*COMPARE, "--seeds", "one"), "seeds"),
    ((*COMPARE, "--conditions.max_epochs", "0"), "max_epochs must be at least 1: got 0."),
    ((*COMPARE, "--conditions.input_size", "[64]"), "input_size"),
    ((*COMPARE, "--conditions.backbone", "resnet81"), "timm has no backbone 'resnet81'; did you mean 'resnet18'"),
    ((*COMPARE, "--conditions.teacher_weights", "nothing.pth"), "teacher_weights 'nothing.pth' is not a file"),
    ((*COMPARE, "--conditions.teacher_weights", "text.txt"), "'text.txt'"),
    (("compare", "--data", "Folder", "--data.name", "a", "--data.root", "pictures", "--data.normal_dir", "part",
      "--categories", "b"), "Folder knows no categories: leave out"),
    ((*COMPARE, "--output", "text.txt", "--conditions.backbone", "tf_efficientnet_lite0",
      "--conditions.teacher_weights", "package"), "cannot be written"),
    # reproduce
    (("reproduce",), "Option 'root' is required"),
    (("reproduce", "--root", "nowhere"), "'nowhere' is not a folder: give the one that holds a folder for each category"),
    (("reproduce", "--root", "text.txt"), "'text.txt' is not a folder"),
    (("reproduce", "--root", "pictures/part/train/good"), "holds no category: give the folder that holds a folder for"),
    ((*REPRODUCE, "--categories", "../part"), "categories must be names of folders in the root, not paths: got '../part'"),
    ((*REPRODUCE, "--categories", ".."), "categories must be names of folders in the root, not paths: got '..'."),
    ((*REPRODUCE, "--categories", ""), "categories must be names of folders in the root, not paths: got ''."),
    ((*REPRODUCE, "--categories", "/etc"), "categories must be names of folders in the root, not paths: got '/etc'."),
    ((*REPRODUCE, "--seeds", "4294967296"), "seeds must be at least one number from 0 to 4294967295: got [4294967296]."),
    ((*REPRODUCE, "--protocol.max_epochs", "many"), "max_epochs"),
    ((*REPRODUCE, "--protocol.val_split_ratio", "1"), "val_split_ratio must be between 0 and 1: got 1.0."),
    ((*REPRODUCE, "--model.layers", "[layr1]"), "no level 'layr1'; did you mean 'layer1'"),
    ((*REPRODUCE, "--model.nothing", "1"), "nothing"),
    (REPRODUCE, "teacher_weights 'weights.pth' is not a file"),
    # import-checkpoint
    (("import-checkpoint",), "path"),
    (("import-checkpoint", "nothing.tar", "--output", "a.ckpt"), "'nothing.tar' is not a file: give a student that the"),
    (("import-checkpoint", "pictures", "--output", "a.ckpt"), "'pictures' is not a file: give a student that the author"),
    (("import-checkpoint", "text.txt", "--output", "a.ckpt"), "'text.txt' is damaged or holds more than tensors"),
    (("import-checkpoint", "text.txt", "--output", "model.pt"), "'model.pt' exists and is not replaced"),
    # what is anomalib's, with this package's model
    (("train", *MODEL, *DEMO, "--model.backbone", "resnet81"), "timm has no backbone 'resnet81'; did you mean"),
    (("train", *MODEL, *DEMO, "--model.learning_rate", "fast"), "learning_rate"),
    (("train", *MODEL, *DEMO, "--model.cache_budget", "much"), "cache_budget must be 'auto' or a number of bytes"),
    (("train", *MODEL, "--data", "MVTecLayout", "--data.root", "nowhere", "--data.category", "a"), "it has no folder 'tr"),
    (("train", *MODEL, *DEMO, "--data.category", "wall"), "has no category 'wall': choose from brick, grass, gravel."),
    (("nothing",), "nothing"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "sentence"), VERBS, ids=lambda case: " ".join(case) if isinstance(case, tuple) else "")
def test_the_command_refuses(arguments: Sequence[str], sentence: str, here: Path, run: Run) -> None:
    with untouched(here):
        assert_refused(run(*arguments), sentence)
    assert not (here / "out").exists()
