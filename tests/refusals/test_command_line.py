"""Wrong command lines of every verb, and of anomalib's own command with this package's model."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from anomalib.cli.cli import main as anomalib

from tests.conftest import write_image
from tests.readme import REPOSITORY

from .harness import Run, assert_refused, in_this_process, untouched

pytestmark = pytest.mark.integration

MODEL = "--model anomalib_stfpm.Stfpm"
DEMO = "--data anomalib_stfpm.data.TextureDemo --data.root demo"
LAYOUT = "--data anomalib_stfpm.data.MVTecLayout --data.root images --data.category"
TRAIN = f"train {MODEL} {DEMO}"
INFER = "infer --model text.xml --input images --output out"
COMPARE = f"compare {DEMO} --output out"
REPRODUCE = "reproduce --root images --output out --model.teacher_weights weights.pth"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a category, a file that is no model and none that is weights."""
    monkeypatch.chdir(tmp_path)
    for folder in ("train/good", "test/good", "test/bad"):
        write_image(tmp_path / "images" / "part" / folder / "0.png", seed=0)
    (tmp_path / "empty").mkdir()
    for name in ("text.xml", "text.bin", "text.onnx", "text.txt", "model.pt", "config.yaml", "alone.xml"):
        (tmp_path / name).write_text("no: [model", encoding="utf-8")
    (tmp_path / "short.yaml").write_text("- a list", encoding="utf-8")
    ensemble = (REPOSITORY / "configs" / "tiled_ensemble.yaml").read_text(encoding="utf-8")
    (tmp_path / "unseeded.yaml").write_text(ensemble.replace("    seed: 0", "    #"), encoding="utf-8")
    (tmp_path / "hostile.yaml").write_text("root: !!python/object/apply:os.mkdir [it ran]", encoding="utf-8")
    return tmp_path


VERBS = [
    # infer
    ("infer", "the following arguments are required: --model, --input, --output"),
    ("infer --model nothing.xml --input images", "the following arguments are required: --output"),
    ("infer --model nothing.xml --input images --output out", "'nothing.xml', a file of the mod"),
    ("infer --model alone.xml --input images --output out", "'alone.bin', a file of the model, d"),
    (f"{INFER}", "'text.xml' cannot be read as a model"),
    ("infer --model text.onnx --input images --output out", "'text.onnx' cannot be read as a mod"),
    ("infer --model model.pt --input images --output out", "A model is an .xml or an .onnx file"),
    ("infer --model images --input images --output out", "A model is an .xml or an .onnx file"),
    ("infer --model text.xml --input nowhere --output out", "'nowhere' does not exist."),
    ("infer --model text.xml --input empty --output out", "There are no images in empty"),
    (f"{INFER} --precision f64", "invalid choice"),
    (f"{INFER} --streams 0", "must be at least 1"),
    (f"{INFER} --streams x", "invalid int value"),
    (f"{INFER} --more", "unrecognized arguments: --m"),
    (f"{INFER} --threshold high", "invalid float value"),
    (f"{INFER} --threshold nan", "--threshold must be a finite number: got nan."),
    (f"{INFER} --threshold 0.5 --normal-images images", "sets it from images: give one of them."),
    (f"{INFER} --false-alarm-rate 0.1", "--false-alarm-rate needs images that are known to be good"),
    (f"{INFER} --min-area -1", "--min-area must be a number of pixels: got -1.0."),
    (f"{INFER} --watch --fail-on-anomaly", "--watch ends with no verdict over all images: leave out --fail"),
    (
        "infer --model text.xml --input nowhere --output out --watch",
        "takes one folder that exists: got nowhere.",
    ),
    ("infer --model text.xml --input images empty --output out --watch", "one folder that exists: got images, empty."),
    ("infer --model text.xml --input images --output images/out --watch", "'images/out' is in 'images', where its he"),
    ("infer --model text.xml --input images --output images/out", "'images/out' is in 'images', where its heat maps"),
    # threshold
    ("threshold", "the following arguments are required: model, --normal-images"),
    ("threshold nothing.xml --normal-images images", "'nothing.xml', a file of the model, does not exist."),
    ("threshold text.onnx --normal-images images", "Thresholds are written into an .xml file with its .bin file"),
    ("threshold text.xml --normal-images images", "'text.xml' cannot be read as a model"),
    ("threshold alone.xml --normal-images images", "'alone.bin', a file of the model, does not exist."),
    # model-repository
    ("model-repository", "the following arguments are required: model, --name, --output"),
    ("model-repository text.xml --name part --output out", "'text.xml' cannot be read as a model"),
    ("model-repository nothing.xml --name part --output out", "'nothing.xml', a file of the model, does not exist."),
    ("model-repository text.xml --name ../part --output out", "--name must be of letters, digits, '_', '.' and '-'"),
    (f"{INFER} --cluster nowhere", "'text.xml' cannot be read as a model"),
    (f"{INFER} --cluster local --full-size", "unrecognized arguments: --full-size"),
    (f"{INFER} --cluster local --workers 0", "--workers must be at least 1: got 0."),
    ("infer --cluster local --model text.xml --input images", "the following arguments are required: --output"),
    # time
    ("time", "the following arguments are required: --model"),
    ("time --model nothing.xml", "'nothing.xml', a file of the model, does not exist."),
    ("time --model text.xml", "'text.xml' cannot be read as a model: export it again."),
    ("time --model text.xml --rounds 0", "--rounds and --seconds must be positive: got 0 and 5.0."),
    ("time --model text.xml --seconds nan", "--rounds and --seconds must be positive: got 30 and nan."),
    ("time --model text.xml --seconds inf", "--rounds and --seconds must be positive: got 30 and inf."),
    ("time --model text.xml --precision f64", "invalid choice: 'f64'"),
    # compare
    ("compare", "Option 'data' is required"),
    ("compare --data Nothing", "Given value: Nothing"),
    ("compare --config nothing.yaml", 'Parser key "config": File does not exist:'),
    ("compare --config config.yaml", "while parsing a flow sequence"),
    ("compare --data anomalib.models.Padim", "Given value: anomalib.models.Padim"),
    (f"{COMPARE} --models os.system", "'os.system' is not the class path of an AnomalibModule"),
    (f"{COMPARE} --models anomalib.models.Nothing", "'anomalib.models.Nothing' is not the class path of a"),
    (f"{COMPARE} --models '[1, 2]'", "'[1, 2]' is not the class path of an AnomalibModule"),
    (f"{COMPARE} --models '{{class_path: anomalib.models.Padim, epochs: 3}}'", "'epochs' is not known in"),
    (f"{COMPARE} --models '{{name: Padim}}'", "class_path is missing in"),
    (
        f"{COMPARE} --models '{{class_path: anomalib.models.Padim, max_epochs: 0}}'",
        "max_epochs of a model must be at le",
    ),
    (f"{COMPARE} --models anomalib.models.Padim anomalib.models.Padim", "models must be at least one, with names"),
    (f"{COMPARE} --seeds -1", "seeds must be at least one number from 0 to 4294967295, each once: got [-1]."),
    (f"{COMPARE} --seeds 1 1", "each once: got [1, 1]."),
    (f"{COMPARE} --seeds one", "Expected a <class 'int'>. Got value: one"),
    (f"{COMPARE} --conditions.max_epochs 0", "max_epochs must be at least 1: got 0."),
    (f"{COMPARE} --conditions.input_size '[64]'", "Expected a tuple with 2 elements. Got value: [64]"),
    (f"{COMPARE} --conditions.backbone resnet81", "timm has no backbone 'resnet81'; did you mean 'resnet18'"),
    (f"{COMPARE} --conditions.teacher_weights nothing.pth", "teacher_weights 'nothing.pth' is not a file"),
    (f"{COMPARE} --conditions.teacher_weights text.txt", "'text.txt' is damaged or holds more than tensors"),
    (
        "compare --data Folder --data.name a --data.root images --data.normal_dir part --categories b",
        "Folder knows no categories: leave out",
    ),
    (
        f"{COMPARE} --output text.txt --conditions.backbone tf_efficientnet_lite0 --conditions.teacher_weights package",
        "'text.txt' cannot be written",
    ),
    # tiled-ensemble
    ("tiled-ensemble", "the following arguments are required: --config"),
    ("tiled-ensemble --config nothing.yaml", "--config must be the YAML file of a tiled ensemble: there is no"),
    ("tiled-ensemble --config images", "--config must be the YAML file of a tiled ensemble: there is no"),
    ("tiled-ensemble --config config.yaml", "'config.yaml' is not YAML: "),
    ("tiled-ensemble --config hostile.yaml", "could not determine a constructor for the tag"),
    ("tiled-ensemble --config short.yaml", "'short.yaml' must have seed, accelerator, default_root_dir, tiling"),
    ("tiled-ensemble --config unseeded.yaml", "'unseeded.yaml' must have seed in data.init_args, as configs/tiled"),
    # reproduce
    ("reproduce", "Option 'root' is required"),
    ("reproduce --root nowhere", "'nowhere' is not a folder: give the one that holds a folder for each category"),
    ("reproduce --root text.txt", "'text.txt' is not a folder"),
    ("reproduce --root images/part/train/good", "holds no category: give the folder that holds a folder for"),
    (f"{REPRODUCE} --categories ../part", "categories must be names of folders in the root, not paths: got '../part'"),
    (f"{REPRODUCE} --categories ..", "categories must be names of folders in the root, not paths: got '..'."),
    (f"{REPRODUCE} --categories ''", "categories must be names of folders in the root, not paths: got ''."),
    (f"{REPRODUCE} --categories /etc", "categories must be names of folders in the root, not paths: got '/etc'."),
    (f"{REPRODUCE} --seeds 4294967296", "seeds must be at least one number from 0 to 4294967295, each once: got"),
    (f"{REPRODUCE} --seeds 1 1", "seeds must be at least one number from 0 to 4294967295, each once: got [1, 1]."),
    (f"{REPRODUCE} --protocol.max_epochs many", "Expected a <class 'int'>. Got value: many"),
    (f"{REPRODUCE} --protocol.max_epochs 0", "max_epochs must be at least 1: got 0."),
    (f"{REPRODUCE} --protocol.val_split_ratio 1", "val_split_ratio must be between 0 and 1: got 1.0."),
    (f"{REPRODUCE} --model.layers '[layr1]'", "no level 'layr1'; did you mean 'layer1'"),
    (f"{REPRODUCE} --cluster local --cpus_per_job 0", "A job must have at least 1 CPU and 0 GPUs: got 0 and None."),
    (f"{REPRODUCE} --gpus_per_job many", "--gpus_per_job"),
    (f"{REPRODUCE} --model.nothing 1", "Unrecognized arguments: --model.nothing 1"),
    (f"{REPRODUCE}", "teacher_weights 'weights.pth' is not a file"),
    ("reproduce --config hostile.yaml", "could not determine a constructor for the tag"),
    # train-all
    ("train-all", "Option 'root' is required"),
    ("train-all --root nowhere", "'nowhere' is not a folder: give the one that holds a folder for each category"),
    ("train-all --root images --categories ../part", "categories must be names of folders in the root, not paths"),
    ("train-all --root images --seed -1", "seeds must be at least one number from 0 to 4294967295, each once: got"),
    ("train-all --root images --compression_type int8_acq", "compression_type must be one of fp16, int8, int8_ptq:"),
    ("train-all --root images --model.teacher_weights weights.pth", "teacher_weights 'weights.pth' is not a file"),
    # import-checkpoint
    ("import-checkpoint", "is required"),
    ("import-checkpoint nothing.tar --output a.ckpt", "'nothing.tar' is not a file: give a student that the"),
    ("import-checkpoint images --output a.ckpt", "'images' is not a file: give a student that the author"),
    ("import-checkpoint text.txt --output a.ckpt", "'text.txt' is damaged or holds more than tensors"),
    ("import-checkpoint text.txt --output model.pt", "'model.pt' exists and is not replaced"),
    # what is anomalib's, with this package's model
    (f"{TRAIN} --model.backbone resnet81", "timm has no backbone 'resnet81'; did you mean"),
    (f"{TRAIN} --model.learning_rate fast", "Given value: NestedArg(key='learning_rate', val='fast')"),
    (f"{TRAIN} --model.cache_budget much", "cache_budget must be 'auto' or a number of bytes"),
    (f"train {MODEL} --data MVTecLayout --data.root nowhere --data.category a", "it has no folder 'tr"),
    (f"{TRAIN} --data.category wall", "has no category 'wall': choose from brick, grass, gravel."),
    ("train --config hostile.yaml", "could not determine a constructor for the tag"),
    ("nothing", "invalid choice: 'nothing' (choose from"),
]


@pytest.mark.parametrize(("command", "sentence"), VERBS)
def test_the_command_rejects(command: str, sentence: str, here: Path, run: Run) -> None:
    with untouched(here):
        assert_refused(run(*shlex.split(command)), sentence)
    assert not (here / "out").exists()
    assert not (here / "it ran").exists()


STOCK = [
    (
        f"{DEMO} --model.input_size '[8, 8]'",
        "input_size must be a height and a width of at least 32 pixels: got [8, 8].",
    ),
    (f"{LAYOUT} empty", "it has no fol"),
    (f"{LAYOUT} part --model.teacher_weights text.txt", "'text.txt' is damaged or holds more than tensors, and is not"),
]


@pytest.mark.parametrize(("arguments", "sentence"), STOCK)
def test_anomalibs_command_prints_the_errors_of_this_package(
    arguments: str,
    sentence: str,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = f"anomalib train {MODEL} {arguments} --trainer.accelerator cpu"
    with untouched(here):
        done = in_this_process(anomalib, shlex.split(command), capsys, monkeypatch)
    assert done.code != 0
    assert sentence in done.output


PROCESSES = [
    ("anomalib-stfpm infer --model text.xml --input nowhere --output out", 120, "'nowhere' does"),
    ("anomalib-stfpm reproduce --root nowhere", 1, "'nowhere' is not a folder: give the one that holds"),
    (f"anomalib {TRAIN} --model.layers '[layr1]'", 1, "no level 'layr1'; did you mean 'layer1'"),
]


@pytest.mark.parametrize(("command", "code", "sentence"), PROCESSES)
def test_the_exit_code_is_that_of_the_process(command: str, code: int, sentence: str, here: Path) -> None:
    program, *arguments = shlex.split(command)
    environment = {**os.environ, "COLUMNS": "500", "NO_COLOR": "1"}
    with untouched(here):
        done = subprocess.run(
            [Path(sys.executable).with_name(program), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == code
    assert sentence in done.stdout + done.stderr
    assert program == "anomalib" or "Traceback" not in done.stderr
