"""Only exports need OpenVINO, NNCF and ONNX."""

import subprocess
import sys
from pathlib import Path

from tests.readme import REPOSITORY

# Without the packages of the extra "openvino".
MISSING = """
import sys
sys.modules.update(dict.fromkeys(["nncf", "onnx", "onnxscript", "openvino"]))
"""
IMPORTS = """
import anomalib_stfpm.cli
import anomalib_stfpm.verbs.compare
import anomalib_stfpm.verbs.reproduce
import anomalib_stfpm.comparison.run
import benchmarks.quality.__main__
"""
TRAINING = """
from anomalib.engine import Engine
from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import TextureDemo
teacher, folder = sys.argv[1:]
model = Stfpm(teacher_weights=teacher, input_size=(64, 64), visualizer=False)
datamodule = TextureDemo(f"{folder}/images")
Engine(max_steps=1, accelerator="cpu", default_root_dir=folder).train(model, datamodule=datamodule)
Engine(accelerator="cpu", default_root_dir=folder).predict(model, datamodule=datamodule)
"""


def run(code: str, *arguments: str) -> None:
    command = [sys.executable, "-c", MISSING + code, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_commands_are_imported_without_openvino() -> None:
    run(IMPORTS)


def test_a_model_trains_tests_and_predicts_without_openvino(teacher_file: Path, tmp_path: Path) -> None:
    run(TRAINING, str(teacher_file), str(tmp_path))
