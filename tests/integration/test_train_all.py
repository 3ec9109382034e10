"""``anomalib-stfpm train-all`` makes a model of every category, with or without test images."""

import json
import shutil
from pathlib import Path

import pytest

from anomalib_stfpm import Stfpm
from anomalib_stfpm.verbs.train_all import main
from anomalib_stfpm_deploy.network import Network
from tests.conftest import CategoryWriter

pytestmark = pytest.mark.integration


def options(root: Path, teacher_file: Path, output: Path) -> list[str]:
    given = {
        "root": root, "output": output, "model.teacher_weights": teacher_file, "model.input_size": "[64, 64]",
        "protocol.max_epochs": 2, "protocol.val_split_ratio": 0.5, "protocol.train_batch_size": 1,
        "protocol.accelerator": "cpu", "compression_type": "fp16",
    }  # fmt: skip
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def test_every_category_gets_a_model_and_damaged_ones_a_reason(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, output = write_category("bolt"), tmp_path / "models"
    shutil.copytree(root / "bolt" / "train", root / "nut" / "train")
    damaged = shutil.copytree(root / "bolt", root / "damaged") / "train" / "good" / "000.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    given = options(root, teacher_file, output)
    assert main(given) == 1
    said = capsys.readouterr()
    assert f"Missing: damaged: ValueError: '{damaged}' cannot be used" in said.err
    table = (output / "models.md").read_text(encoding="utf-8")
    assert table in said.out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:4]] == ["| bolt", "| nut"]
    for name, metrics in (("bolt", 7), ("nut", 0)):
        result = json.loads((output / name / "result.json").read_text(encoding="utf-8"))
        assert len(result["metrics"]) == metrics
        processor = Stfpm.load_from_checkpoint(output / result["checkpoint"]).post_processor
        assert float(processor.image_threshold) == result["image_threshold"] > 0
        assert Network(output / result["exported"]).input_size == (64, 64)
    kept = {path: path.stat().st_mtime_ns for path in output.glob("*/student.ckpt")}
    damaged.write_bytes((root / "bolt" / "train" / "good" / "000.png").read_bytes())
    assert main(given) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert sorted(path.name for path in (output / "damaged").iterdir()) == ["result.json", "student.ckpt", "weights"]
    with pytest.raises(ValueError, match="holds results with seed 0, not 1: give another output folder"):
        main([*given, "--seed", "1"])
