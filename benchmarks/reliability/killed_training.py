"""Kill trainings at random moments, resume them, and compare the final student with an uninterrupted training.

Each training runs ``anomalib train`` on images of noise. SIGKILL ends it at a random moment, every third time while a
checkpoint is being written. All checkpoints must still be readable. The same command with ``--ckpt_path`` resumes from
the last one and is killed again, until a training finishes. Its final student, its checkpoint and its test metrics must
equal those of an uninterrupted training, bit for bit:

    python -m benchmarks.reliability.killed_training --kills 30
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from anomalib.cli import AnomalibCLI

from anomalib_stfpm.results import environment
from anomalib_stfpm_deploy.files import write_text

from . import made_up

_CATEGORY = "part"
_IMAGES = 8
_FINISHED = "finished.pt"
_WRITING = "*/weights/lightning/.*.ckpt"
_WRITTEN = "v*/weights/lightning/[!.]*.ckpt"


@dataclass
class Outcome:
    """Counts over all trainings.

    Args:
        kills: Number of kills.
        while_writing: Kills while a checkpoint was being written.
        before_the_first_checkpoint: Kills before there was a checkpoint.
        trainings: Number of trainings that finished.
        same: Trainings that ended with the same tensors and metrics as the uninterrupted one.
        unreadable: Checkpoints that could not be read after a kill.
    """

    kills: int = 0
    while_writing: int = 0
    before_the_first_checkpoint: int = 0
    trainings: int = 0
    same: int = 0
    unreadable: list[str] = field(default_factory=list)


def train(folder: Path, results: Path, epochs: int, checkpoint: Path | None) -> None:
    """Train and test as the command does, and save what that ends with: in a process of its own."""
    torch.set_num_threads(1)
    results.mkdir(exist_ok=True)
    log = os.open(results / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    done = AnomalibCLI([
        "train", "--seed_everything", "0", "--model", "anomalib_stfpm.Stfpm", "--model.backbone", made_up.BACKBONE,
        "--model.teacher_weights", str(folder / "teacher.safetensors"), "--model.layers", "[layer1]",
        "--model.input_size", "[64, 64]", "--model.visualizer", "false", "--data", "anomalib_stfpm.data.MVTecLayout",
        "--data.root", str(folder), "--data.category", _CATEGORY, "--data.num_workers", "0",
        "--data.train_batch_size", "2", "--data.val_split_mode", "from_train", "--data.val_split_ratio", "0.3",
        "--trainer.accelerator", "cpu", "--trainer.max_epochs", str(epochs), "--trainer.enable_progress_bar", "false",
        "--default_root_dir", str(results), *([] if checkpoint is None else ["--ckpt_path", str(checkpoint)]),
    ])  # fmt: skip
    metrics = {name: float(value) for name, value in done.engine.trainer.callback_metrics.items()}
    torch.save({"model": done.model.state_dict(), "metrics": metrics}, results / _FINISHED)


def kill_again_and_again(folder: Path, kills: int, epochs: int, seed: int) -> Outcome:
    """Kill trainings until that has been done often enough, and let the last one finish."""
    made_up.write_images(folder, _CATEGORY, _IMAGES)
    made_up.write_teacher(folder / "teacher.safetensors")
    # Forking saves the slow imports. It is safe because this process computes nothing and so has no threads.
    start = partial(multiprocessing.get_context("fork").Process, target=train)
    begun = time.monotonic()
    _finished(start(args=(folder, folder / "whole", epochs, None)))
    seconds = time.monotonic() - begun
    expected = _ended_with(folder / "whole")
    # Not used for security.
    outcome, moments = Outcome(), random.Random(seed)  # nosec B311
    while outcome.kills < kills:
        results = folder / f"killed_{outcome.trainings}"
        while outcome.kills < kills:
            process = start(args=(folder, results, epochs, last_checkpoint(results)))
            process.start()
            waits_for_writing = outcome.kills % 3 == 2
            _wait(process, results, moments.uniform(0, seconds), writes=waits_for_writing)
            is_writing = any(_of_engine(results).glob(_WRITING))
            process.kill()
            process.join()
            if process.exitcode != -signal.SIGKILL:
                break
            outcome.kills += 1
            outcome.while_writing += is_writing
            outcome.before_the_first_checkpoint += last_checkpoint(results) is None
            outcome.unreadable += [
                str(path.relative_to(folder)) for path in _written(results) if not _is_readable(path)
            ]
            for leftover in _of_engine(results).glob(_WRITING):
                leftover.unlink()  # or the next kill would mistake it for a checkpoint being written
        if not (results / _FINISHED).is_file():
            _finished(start(args=(folder, results, epochs, last_checkpoint(results))))
        outcome.trainings += 1
        outcome.same += _is_same(_ended_with(results), expected)
        print(f"{outcome.kills} kills, {outcome.same} of {outcome.trainings} trainings the same", flush=True)
    return outcome


def last_checkpoint(results: Path) -> Path | None:
    """Find the checkpoint to go on from."""
    found = {int(path.parents[2].name[1:]): path for path in _written(results) if path.name == "model.ckpt"}
    return found[max(found)] if found else None


def _of_engine(results: Path) -> Path:
    return results / "Stfpm" / "MVTecLayout" / _CATEGORY


def _written(results: Path) -> list[Path]:
    return sorted(_of_engine(results).glob(_WRITTEN))


def _is_readable(checkpoint: Path) -> bool:
    try:
        return "state_dict" in torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception:
        return False


def _wait(process: BaseProcess, results: Path, seconds: float, *, writes: bool) -> None:
    """Wait for some seconds, then, if ``writes``, until a checkpoint is being written."""
    process.join(seconds)
    while writes and process.is_alive() and not any(_of_engine(results).glob(_WRITING)):
        time.sleep(0.001)


def _finished(process: BaseProcess) -> None:
    process.start()
    process.join()
    if process.exitcode != 0:
        msg = f"A training that was not killed ended with exit code {process.exitcode}."
        raise RuntimeError(msg)


def _ended_with(results: Path) -> dict[str, Any]:
    """Return the final student and metrics, and the states in the last checkpoint."""
    ended: dict[str, Any] = torch.load(results / _FINISHED, weights_only=True)
    newest = last_checkpoint(results)
    if newest is None:
        msg = f"There is no checkpoint in '{results}'."
        raise RuntimeError(msg)
    last = torch.load(newest, map_location="cpu", weights_only=True)
    ended |= {"last": last["state_dict"], "optimizer": last["optimizer_states"]}
    ended["kept"] = last["callbacks"]["StudentSelection"]["state_dict"]
    return ended


def _is_same(left: Any, right: Any) -> bool:  # noqa: ANN401  # any part of a checkpoint
    if isinstance(left, torch.Tensor):
        return torch.equal(left.nan_to_num(7), right.nan_to_num(7))
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_is_same(value, right[key]) for key, value in left.items())
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_is_same, left, right))
    return bool(left == right)


def main() -> None:
    """Run the benchmark, print and write the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0, help="of the moments to kill at")
    parser.add_argument("--output", type=Path, default=Path("results/reliability"))
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        outcome = kill_again_and_again(Path(folder), arguments.kills, arguments.epochs, arguments.seed)
    report = {**asdict(outcome), "epochs": arguments.epochs, "environment": environment.describe()}
    write_text(arguments.output / "killed_training.json", json.dumps(report, indent=2) + "\n")
    print(
        f"\n{outcome.kills} kills, {outcome.while_writing} of them while a checkpoint was being written, "
        f"{outcome.before_the_first_checkpoint} before there was one: {len(outcome.unreadable)} checkpoints torn, "
        f"{outcome.same} of {outcome.trainings} trainings ended as the uninterrupted one."
    )
    sys.exit(outcome.same != outcome.trainings or bool(outcome.unreadable))


if __name__ == "__main__":
    main()
