"""Jobs on a real Ray cluster of two nodes give the results of a run without Ray, also when a node dies."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from anomalib_stfpm.verbs import compare, reproduce, train_all
from anomalib_stfpm_deploy.cluster import jobs
from anomalib_stfpm_deploy.cluster.jobs import Cluster, Failure, outcomes
from tests.conftest import CategoryWriter

from .conftest import HEARS_CONTROL_C, assert_same
from .two_nodes import MEMORY, WORKERS, TwoNodes

pytest.importorskip("ray")
pytestmark = [pytest.mark.integration, pytest.mark.slow]

PADIM = {"class_path": "anomalib.models.Padim", "name": "PaDiM", "init_args": {"n_features": 20}}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As many threads in this process as a job has on the cluster: sums depend on it in the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def root(write_category: CategoryWriter) -> Path:
    for name in ("bolt", "nut", "screw"):
        root = write_category(name)
    return root


def options(root: Path, teacher_file: Path, output: Path, **more: object) -> list[str]:
    given = {
        "root": root, "output": output, "model.teacher_weights": teacher_file, "model.input_size": "[64, 64]",
        "protocol.max_epochs": 60, "protocol.val_split_ratio": 0.5, "protocol.train_batch_size": 1,
        "protocol.accelerator": "cpu", **more,
    }  # fmt: skip
    return [part for name, value in given.items() for part in (f"--{name}", str(value))]


def read(path: Path) -> Any:  # noqa: ANN401
    return json.loads(path.read_text(encoding="utf-8"))


def student(folder: Path) -> dict[str, torch.Tensor]:
    state_dict: dict[str, torch.Tensor] = torch.load(folder / "student.ckpt", weights_only=True)["state_dict"]
    return state_dict


def trained_in(output: Path) -> bool:
    """Whether both nodes have finished an epoch."""
    return len(list(output.rglob("model.ckpt"))) == 2


def test_a_reproduction_that_loses_a_node_gives_the_same_table(
    cluster: TwoNodes, root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with cluster.loses_a_node(lambda: trained_in(there)):
        given = options(root, teacher_file, there, cluster=cluster.address)
        assert reproduce.main(given) == 0, capsys.readouterr()
    assert reproduce.main(options(root, teacher_file, here)) == 0
    assert read(there / "results.json")["table"] == read(here / "results.json")["table"]
    for name in ("bolt", "nut", "screw"):
        assert_same(student(there / name / "seed_0"), student(here / name / "seed_0"))
    resumed = [run for run in read(there / "results.json")["runs"] if run["fit_seconds"] is None]
    assert len(resumed) == 1, "the run of the node that died goes on elsewhere"
    assert sorted(path.name for path in there.iterdir() if path.is_file()) == [
        "configuration.json", "results.csv", "results.json", "results.md",
    ]  # fmt: skip


def test_every_category_gets_the_same_model_when_a_node_dies(
    cluster: TwoNodes, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    with cluster.loses_a_node(lambda: trained_in(there)):
        assert train_all.main(options(root, teacher_file, there, cluster=cluster.address)) == 0
    assert train_all.main(options(root, teacher_file, here)) == 0
    for name in ("bolt", "nut", "screw"):
        far, near = (read(output / name / "result.json") for output in (there, here))
        for part in ("metrics", "image_threshold", "pixel_threshold", "epoch", "exported"):
            assert far[part] == near[part], part
        assert_same(student(there / name), student(here / name))
        weights = [output / near["exported"].replace(".xml", ".bin") for output in (there, here)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_comparison_that_loses_a_node_gives_the_same_metrics(
    cluster: TwoNodes, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    def run(output: Path, *more: str) -> list[dict[str, Any]]:
        given = [
            "--data", "anomalib_stfpm.data.MVTecLayout", "--data.root", root, "--data.category", "bolt",
            "--data.num_workers", "0", "--categories", "bolt", "nut", "--models", json.dumps(PADIM),
            "--output", output, "--conditions.teacher_weights", teacher_file, "--conditions.input_size", "[64, 64]",
            "--conditions.accelerator", "cpu", "--conditions.rounds", "1", "--conditions.seconds", "0.1",
            "--conditions.val_split_ratio", "0.5", *more,
        ]  # fmt: skip
        assert compare.main(list(map(str, given))) == 0
        record = read(output / "comparison.json")
        assert all(row["f32_median_ms"] > 0 for row in record["table"])
        return [{name: row[name] for name in ("category", "model", "image_AUROC", "AUPRO")} for row in record["table"]]

    there = tmp_path / "there"
    with cluster.loses_a_node(lambda: len(list(there.rglob("log.txt"))) == 2):
        far = run(there, "--cluster", cluster.address)
    assert far == run(tmp_path / "here")
    assert len(far) == 2


def test_a_job_that_fails_is_reported_and_the_others_end(
    cluster: TwoNodes, root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mask = root / "bolt" / "ground_truth" / "bad" / "001.png"
    mask.rename(mask.with_name("of_another_image.png"))
    given = {"cluster": cluster.address, "protocol.max_epochs": 1}
    assert reproduce.main(options(root, teacher_file, tmp_path / "table", **given)) == 1
    assert "Missing: bolt: UnusableFileError: " in capsys.readouterr().err
    assert "Traceback" in (tmp_path / "table" / "bolt" / "seed_0" / "error.txt").read_text()
    assert [row["category"] for row in read(tmp_path / "table" / "results.json")["table"]] == [
        "nut", "screw", "average",
    ]  # fmt: skip


def attempted(folder: Path, name: str) -> int:
    """Count an attempt, and return how many there were before."""
    with (folder / name).open("a") as file:
        file.write("x")
    return (folder / name).stat().st_size - 1


def die(folder: Path, name: str, times: int) -> str:
    if attempted(folder, name) < times:
        os._exit(1)
    return name


def fail(folder: Path) -> None:
    attempted(folder, "fails")
    msg = "its own reason"
    raise ValueError(msg)


def what_it_sees() -> dict[str, Any]:
    variables = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    return {**variables, "threads": torch.get_num_threads(), "directory": Path.cwd()}


def test_workers_that_die_cost_retries_and_errors_do_not(cluster: TwoNodes, tmp_path: Path) -> None:
    given: dict[str, Callable[[], Any]] = {
        "dies once": partial(die, tmp_path, "dies once", 1),
        "always dies": partial(die, tmp_path, "always dies", 100),
        "fails": partial(fail, tmp_path),
        "sees": what_it_sees,
    }
    done: dict[str, Any] = dict(outcomes(given, Cluster(cluster.address, gpus=0), tmp_path))
    assert done["dies once"] == "dies once"
    assert done["sees"] == {
        "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "threads": 1, "directory": Path.cwd(),
    }  # fmt: skip
    assert isinstance(done["fails"], Failure)
    assert done["fails"].reason == "ValueError: its own reason"
    assert "raise ValueError(msg)" in done["fails"].trace
    assert isinstance(done["always dies"], Failure)
    assert done["always dies"].reason.endswith("(it was tried 4 times)")
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert sizes == {"dies once": 2, "always dies": 4, "fails": 1}


def test_a_machine_that_does_not_see_the_output_is_named(
    cluster: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs.files, "write_text", lambda *_: None)  # as if it were on a disk of this machine
    with pytest.raises(ValueError, match=r"^The machine '.+' does not see '.+': give an output folder on a file"):
        list(outcomes({"any": what_it_sees}, Cluster(cluster.address), tmp_path))


def test_jobs_that_ask_for_too_much_are_announced_or_refused(
    cluster: TwoNodes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="No machine of the cluster has 1000 CPUs and 0 GPUs, which a job asks for:"):
        list(outcomes({"any": what_it_sees}, Cluster("local", cpus=1000), tmp_path))
    ray = [sys.executable, "-m", "ray.scripts.scripts"]  # Ray's command need not be on the path
    joins = [*ray, "start", "--address", cluster.address, "--num-cpus", "2", "--block"]
    waiting: Any = outcomes({"any": what_it_sees}, Cluster(cluster.address, cpus=2), tmp_path)
    with subprocess.Popen([*joins, "--object-store-memory", str(MEMORY)], stdout=subprocess.DEVNULL) as joining:
        ((_, seen),) = waiting
        joining.terminate()
    assert seen["threads"] == 2
    assert "a job asks for: the jobs wait until one joins." in capsys.readouterr().err


def workers(cluster: TwoNodes) -> list[psutil.Process]:
    """Processes of a cluster, but of no other on this machine, that do a job."""
    of_this = f"--gcs-address={cluster.address}"
    nodes = [one for one in psutil.process_iter(["cmdline"]) if of_this in (one.info["cmdline"] or [])]
    children = [child for node in nodes for child in node.children(recursive=True)]
    return [one for one in children if one.is_running() and "".join(one.cmdline()[:1]).startswith(WORKERS)]


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
def test_control_c_stops_the_jobs_and_the_same_command_goes_on(
    cluster: TwoNodes, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    more = {"cluster": cluster.address, "protocol.max_epochs": 10_000}
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "train-all"]
    process = subprocess.Popen(
        [*command, *options(root, teacher_file, tmp_path / "output", **more)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **HEARS_CONTROL_C,
    )  # fmt: skip
    while not trained_in(tmp_path / "output"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    assert len(workers(cluster)) == 2
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on" in said
    for _ in range(100):
        if not workers(cluster):
            break
        time.sleep(0.1)
    assert workers(cluster) == []


def test_a_cluster_of_this_machine_alone_is_started_and_stopped(
    root: Path, teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_DEFAULT_OBJECT_STORE_MAX_MEMORY_BYTES", str(MEMORY))
    shutil.rmtree(root / "bolt" / "test")  # a part of which there are good images only
    more = {"cluster": "local", "protocol.max_epochs": 1, "compression_type": "int8_ptq"}
    assert train_all.main(options(root, teacher_file, tmp_path / "output", **more)) == 0
    assert len(list((tmp_path / "output").glob("*/weights/openvino/model.xml"))) == 3
    import ray

    assert not ray.is_initialized()
