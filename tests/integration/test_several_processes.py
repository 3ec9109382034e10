"""Several processes of one training give one student and count every image once; commands do not share a folder."""

import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.engine import engine as anomalib_engine
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.verbs.compare import main as compare_main
from anomalib_stfpm.verbs.reproduce import main as reproduce_main
from anomalib_stfpm_deploy.infer.verb import main as infer_main
from tests.conftest import write_image, write_mask
from tests.readme import REPOSITORY

from .conftest import assert_same, quiet_engine

pytestmark = pytest.mark.integration

HOLD = """
import sys, time
from pathlib import Path
from anomalib_stfpm_deploy.files import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("at work", flush=True)
    time.sleep(600)
"""
METRICS = {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score", "AUPRO", "PointingGame", "CoveredAUROC"}


class SaveOfEachProcess(Callback):
    """Save what each process holds after training and after testing."""

    def on_test_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        folder = Path(os.environ["SAVE_TO"])
        torch.save({**pl_module.state_dict()}, folder / f"state_{trainer.global_rank}.pt")
        kept = trainer.checkpoint_callback.dirpath
        (folder / f"folder_{trainer.global_rank}.txt").write_text(f"{trainer.default_root_dir}\n{kept}")

    def on_test_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        del pl_module
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        path = Path(os.environ["SAVE_TO"]) / f"metrics_{trainer.global_rank}.json"
        path.write_text(json.dumps(metrics))


def command(*arguments: object) -> list[str]:
    return [str(Path(sys.executable).with_name("anomalib")), *map(str, arguments)]


def training(root: Path, teacher_file: Path, results: Path) -> list[object]:
    return [
        "train", "--seed_everything", "0", "--model", "anomalib_stfpm.Stfpm", "--model.teacher_weights", teacher_file,
        "--model.input_size", "[64, 64]", "--data", "anomalib_stfpm.data.MVTecLayout", "--data.root", root,
        "--data.category", "part", "--data.num_workers", "0", "--data.train_batch_size", "2",
        "--data.eval_batch_size", "2", "--data.val_split_mode", "from_train", "--data.val_split_ratio", "0.4",
        "--data.seed", "0",
        "--trainer.accelerator", "cpu", "--trainer.max_epochs", "3", "--default_root_dir", results,
    ]  # fmt: skip


def written(root: Path) -> Path:
    """Images of which neither those to test nor those held out are even in number."""
    for folder, number in (("train/good", 8), ("test/good", 3), ("test/bad", 2)):
        for index in range(number):
            image = Path(folder, f"{index:03}.png")
            write_image(root / "part" / image, seed=len(folder) * number + index, defect=folder == "test/bad")
            if folder == "test/bad":
                write_mask(root / "part" / "ground_truth" / "bad" / image.name)
    return root


@pytest.fixture(scope="module")
def trained_by_two(teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training that two processes did, with what each of them held."""
    folder = tmp_path_factory.mktemp("trained_by_two")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SAVE_TO": str(folder)}
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), environment.get("PYTHONPATH", "")])
    several = ["--trainer.strategy", "ddp", "--trainer.devices", "2"]
    saving = f"--trainer.callbacks+={__name__}.{SaveOfEachProcess.__name__}"
    done = subprocess.run(
        command(*training(written(folder / "images"), teacher_file, folder / "results"), *several, saving),
        env=environment, check=False, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def same_images(trained_by_two: Path) -> MVTecLayout:
    return MVTecLayout(
        root=trained_by_two / "images", category="part", num_workers=0, val_split_mode="from_train",
        val_split_ratio=0.4, seed=0,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs a symbolic link")
def test_two_processes_end_with_one_student_one_folder_and_the_metrics_of_one_process(
    trained_by_two: Path, tmp_path: Path
) -> None:
    first, second = (torch.load(trained_by_two / f"state_{rank}.pt", weights_only=True) for rank in (0, 1))
    assert_same(first, second)

    folder = trained_by_two / "results" / "Stfpm" / "MVTecLayout" / "part"
    assert {path.name for path in folder.iterdir() if path.name[0] != "."} == {"v0", "latest"}
    assert (folder / "latest").resolve() == folder / "v0"
    for rank in (0, 1):
        assert (trained_by_two / f"folder_{rank}.txt").read_text().splitlines()[0] == str(folder / "v0")
    weights = folder / "latest" / "weights" / "lightning"
    assert sorted(path.name for path in weights.iterdir()) == ["best.ckpt", "model.ckpt"]
    assert len(list((folder / "latest" / "images").rglob("*.png"))) == 5

    (expected,) = quiet_engine(tmp_path / "test").test(
        Stfpm(visualizer=False), datamodule=same_images(trained_by_two), ckpt_path=weights / "best.ckpt"
    )
    for rank in (0, 1):
        metrics = json.loads((trained_by_two / f"metrics_{rank}.json").read_text())
        assert {name: metrics[name] for name in METRICS} == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_two_processes_compute_the_thresholds_and_val_error_of_one(trained_by_two: Path, tmp_path: Path) -> None:
    weights = trained_by_two / "results" / "Stfpm" / "MVTecLayout" / "part" / "v0" / "weights" / "lightning"
    checkpoint = torch.load(weights / "model.ckpt", weights_only=True)
    model = Stfpm.load_from_checkpoint(weights / "best.ckpt", visualizer=False)
    datamodule = same_images(trained_by_two)
    of_two = {name: value.clone() for name, value in model.post_processor.state_dict().items()}
    engine = quiet_engine(tmp_path)
    engine.validate(model, datamodule=datamodule)
    held_out = [str(path) for path in datamodule.val_data.samples.image_path]
    assert checkpoint["callbacks"]["ExactResume"]["split"]["val_data"] == held_out
    assert len(held_out) == 3
    for name, value in model.post_processor.state_dict().items():
        torch.testing.assert_close(of_two[name], value, rtol=1e-5, atol=1e-6)
    kept = checkpoint["callbacks"]["StudentSelection"]["val_error"]
    assert float(engine.trainer.callback_metrics["val_error"]) == pytest.approx(kept, rel=1e-5)


def test_trainings_that_start_at_the_same_moment_get_separate_folders(tmp_path: Path) -> None:
    made: list[Path] = []
    starts = threading.Barrier(8)

    def make() -> None:
        starts.wait()
        made.extend(anomalib_engine.create_versioned_dir(tmp_path) for _ in range(5))

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(path.name for path in made) == sorted(f"v{number}" for number in range(40))
    assert (tmp_path / "latest").resolve() == tmp_path.resolve() / "v39"


def test_a_second_command_in_one_output_folder_is_rejected_until_the_first_ends(exported: Path, tmp_path: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "at work\n"
    write_image(tmp_path / "images" / "1.png", 1)
    output, teacher = ["--output", str(tmp_path)], ["--model.teacher_weights", "package"]
    infer = ["infer", "--model", str(exported), "--input", str(tmp_path / "images"), *output]
    reproduce = ["reproduce", "--root", str(tmp_path), *output, *teacher]
    compare = ["compare", "--data", "MVTecLayout", "--data.root", str(tmp_path), "--data.category", "part", *output]
    refusal = f"Another command is at work in '{tmp_path}': wait until it has ended, or give another output folder."
    for verb, given in ((infer_main, infer), (reproduce_main, reproduce), (compare_main, compare)):
        with pytest.raises(ValueError, match=f"^{re.escape(refusal)}$"):
            verb(given[1:])
    first.kill()
    first.wait()
    assert infer_main(infer[1:]) == 0


@pytest.mark.slow
def test_two_trainings_in_one_folder_do_not_disturb_each_other(teacher_file: Path, tmp_path: Path) -> None:
    root = written(tmp_path / "images")
    given = [*training(root, teacher_file, tmp_path / "results"), "--model.visualizer", "false"]
    both = [subprocess.Popen(command(*given), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(timeout=300) for process in both] == [0, 0]
    folder = tmp_path / "results" / "Stfpm" / "MVTecLayout" / "part"
    students = [
        torch.load(folder / version / "weights" / "lightning" / "model.ckpt", weights_only=True)["state_dict"]
        for version in ("v0", "v1")
    ]
    assert_same(*students)
