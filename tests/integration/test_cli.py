"""The stock ``anomalib`` command works with the plugin, on a machine without a network."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
import torch
import torchvision
import yaml
from anomalib.cli import AnomalibCLI
from anomalib.data.utils import read_image
from safetensors.torch import save_file

from anomalib_stfpm import Stfpm
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.cli import main
from tests.conftest import BACKBONE as RESNET
from tests.conftest import CategoryWriter
from tests.readme import REPOSITORY

pytestmark = pytest.mark.integration

CONFIGS = REPOSITORY / "configs"
NO_NETWORK = Path(__file__).parent / "no_network"
BACKBONE = "tf_efficientnet_lite0"
EXPORT_TYPES = ("torch", "onnx", "openvino")


def run(command: str, *arguments: str | Path, cwd: Path, fails: bool = False) -> str:
    """Run a command of this environment without a network, and return what it prints."""
    path = os.pathsep.join(filter(None, [str(NO_NETWORK), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1"}
    completed = subprocess.run(
        [Path(sys.executable).with_name(command), *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    output = completed.stdout + completed.stderr
    assert (completed.returncode != 0) == fails, output
    return output


@pytest.mark.slow
@pytest.mark.usefixtures("no_network")
def test_the_stock_command_does_everything_on_the_demo_category(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "teacher.safetensors"
    weights = teacher_weights.read(BACKBONE, "package")
    save_file({key: value.contiguous() for key, value in weights.items()}, file)
    model = ["--model", "anomalib_stfpm.Stfpm"]
    data = ["--data", "anomalib_stfpm.data.TextureDemo", "--data.root", "demo", "--data.category", "brick"]
    cpu = ["--trainer.accelerator", "cpu"]
    trained = run(
        "anomalib", "train", *model, *data, *cpu,
        "--model.backbone", BACKBONE, "--model.teacher_weights", file, "--model.input_size", "[128, 128]",
        "--data.train_batch_size", "4", "--trainer.max_epochs", "2",
        cwd=tmp_path,
    )  # fmt: skip
    assert all(
        name in trained
        for name in (
            "image_AUROC",
            "image_F1Score",
            "pixel_AUROC",
            "pixel_F1Score",
            "AUPRO",
            "PointingGame",
            "CoveredAUROC",
        )
    )
    results = tmp_path / "results" / "Stfpm" / "TextureDemo" / "brick" / "v0"
    assert len(list((results / "images").rglob("*.png"))) == 52
    checkpoint = ["--ckpt_path", results / "weights" / "lightning" / "model.ckpt"]

    # From here on there is neither hub nor file, and the checkpoint alone says what the model is.
    file.unlink()
    tested = run("anomalib", "test", *model, *data, *cpu, *checkpoint, cwd=tmp_path)
    assert metric(tested, "image_AUROC") == pytest.approx(metric(trained, "image_AUROC"))
    assert metric(tested, "AUPRO") == pytest.approx(metric(trained, "AUPRO"), abs=1e-4)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "demo" / "brick" / "test" / "scratch" / "000.png"
    export: list[object] = ["export", "--export_root", "exported", "--input_size", "[-1,-1]", "--export_type"]
    exports = [[*export, export_type] for export_type in EXPORT_TYPES]
    verbs: list[list[object]] = [["validate", *data], ["predict", "--data", path.parent], *exports]
    for verb in verbs:
        AnomalibCLI([str(word) for word in (*verb, *model, *cpu, *checkpoint)])

    exported = tmp_path / "exported" / "weights"
    image = read_image(path, as_tensor=True)[None]
    model_in_torch = torch.load(exported / "torch" / "model.pt", weights_only=False)["model"].eval()
    with torch.no_grad():
        expected = model_in_torch(image)
    compiled = openvino.compile_model(exported / "openvino" / "model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    actual = compiled(image.numpy())
    np.testing.assert_allclose(actual["anomaly_map"], expected.anomaly_map, atol=1e-3)
    assert (exported / "onnx" / "model.onnx").is_file()


def metric(output: str, name: str) -> float:
    """Read a metric from the table that the command prints."""
    line = next(line for line in output.splitlines() if f" {name} " in line)
    return float(line.split("│")[2])


def test_a_configuration_file_sets_arguments_and_the_pre_processor(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = {"class_path": "torchvision.transforms.v2.Resize", "init_args": {"size": [64, 48]}}
    config = {
        "model": {
            "class_path": "anomalib_stfpm.Stfpm",
            "init_args": {
                "backbone": "resnet18",
                "layers": [1, "layer2"],
                "teacher_weights": str(teacher_file),
                "level_weights": [1, 0.5],
                "learning_rate": 0.1,
                "pre_processor": {
                    "class_path": "anomalib.pre_processing.PreProcessor",
                    "init_args": {"transform": transform},
                },
            },
        },
        "data": {
            "class_path": "anomalib_stfpm.data.MVTecLayout",
            "init_args": {"root": str(write_category("part")), "category": "part", "num_workers": 0},
        },
        "trainer": {"accelerator": "cpu", "max_epochs": 1},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    AnomalibCLI(["fit", "--config", "config.yaml", "--model.init_args.momentum", "0.5"])
    checkpoint = tmp_path / "results/Stfpm/MVTecLayout/part/v0/weights/lightning/model.ckpt"
    model = Stfpm.load_from_checkpoint(checkpoint)
    assert model.hparams["layers"] == ["layer1", "layer2"]
    assert (model.learning_rate, model.momentum) == (0.1, 0.5)
    assert model.pre_processor.transform.size == [64, 48]


def test_an_unreachable_hub_is_one_error_that_names_the_alternatives(
    write_category: CategoryWriter, tmp_path: Path
) -> None:
    output = run(
        "anomalib-stfpm", "train", "--model", "anomalib_stfpm.Stfpm", "--trainer.accelerator", "cpu",
        "--data", "MVTecAD", "--data.root", write_category("part"), "--data.category", "part",
        cwd=tmp_path, fails=True,
    )  # fmt: skip
    assert output.rstrip().splitlines()[-1].startswith("anomalib-stfpm: error: The hub is out of reach")
    assert "Traceback" not in output


def test_help_lists_the_verbs_of_this_package_and_of_anomalib(tmp_path: Path) -> None:
    output = run("anomalib-stfpm", "--help", cwd=tmp_path)
    assert "reproduce" in output
    assert "import-checkpoint" in output
    assert "train and test as the paper does" in output
    assert "Fit the model and then call test" in output


def test_an_imported_student_can_be_tested_and_predict(
    write_category: CategoryWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "teacher.pth")
    state_dict = torch.nn.Sequential(*list(torchvision.models.resnet18(weights=None).children())[:-2]).state_dict()
    published = {"category": "part", "state_dict": {f"model.{key}": value for key, value in state_dict.items()}}
    torch.save(published, tmp_path / "best.pth.tar")
    monkeypatch.chdir(tmp_path)
    imported = ["import-checkpoint", "best.pth.tar", "--output", "student.ckpt", "--teacher_weights", "teacher.pth"]
    monkeypatch.setattr(sys, "argv", ["anomalib-stfpm", *imported])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out == "Wrote student.ckpt\n"
    root = write_category("part")
    options = ["--model", "anomalib_stfpm.Stfpm", "--ckpt_path", "student.ckpt", "--trainer.accelerator", "cpu"]
    data = ["--data", "MVTecAD", "--data.root", str(root), "--data.category", "part", "--data.num_workers", "0"]
    tested = AnomalibCLI(["test", *options, *data])
    assert {"image_AUROC", "pixel_AUROC", "AUPRO"} <= set(tested.engine.trainer.callback_metrics)
    predicted = AnomalibCLI(["predict", *options, "--data", str(root / "part" / "test" / "bad")])
    assert predicted.model.model.teacher_is_loaded


@pytest.mark.slow
def test_the_benchmark_pipeline_trains_every_combination_of_its_grid(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    config = yaml.safe_load((CONFIGS / "benchmark.yaml").read_text(encoding="utf-8"))
    tiny = {"backbone": RESNET, "teacher_weights": str(teacher_file), "input_size": [32, 32], "layers": ["layer1"]}
    config["benchmark"]["model"]["init_args"] |= tiny
    config["benchmark"]["data"] = {
        "class_path": "MVTecAD",
        "init_args": {"root": str(write_category("part")), "category": "part", "num_workers": 0},
    }
    (tmp_path / "benchmark.yaml").write_text(yaml.safe_dump(config))
    run("anomalib-stfpm", "benchmark", "--config", "benchmark.yaml", cwd=tmp_path)
    (table,) = (tmp_path / "runs" / "benchmark").rglob("results.csv")
    with table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model.init_args.schedule"] for row in rows] == ["constant", "one_cycle"]
    assert all(0 <= float(row["image_AUROC"]) <= 1 for row in rows)
