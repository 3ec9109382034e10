"""The benchmarks run, and print what they have measured."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import pytest

from benchmarks.reliability import numbers
from tests import readme
from tests.conftest import CategoryWriter, write_image

pytestmark = [pytest.mark.integration, pytest.mark.slow]


def test_the_training_benchmark_compares_its_contenders(write_category: CategoryWriter, tmp_path: Path) -> None:
    command = [
        *readme.command("python -m benchmarks.training --root"), "--root", write_category("part"), "--category", "part",
        "--images", "4", "--size", "80", "--epochs", "2", "--num-workers", "0", "--contenders", "default", "plain",
        "--output", tmp_path / "results",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    report = json.loads((tmp_path / "results" / "training_same_as_test.json").read_text(encoding="utf-8"))
    results = report["runs"]["4 images of 80 x 80"]["results"]
    assert results.keys() == {"default", "plain"}
    assert report["environment"]["gpu"] is None
    for result in results.values():
        assert len(result["seconds_per_epoch"]) == 2
        assert result["fit_seconds"] == pytest.approx(sum(result["seconds_per_epoch"]))
        assert 0 < result["first_pass_seconds"] < result["seconds_per_epoch"][0]
        assert result["busy"] > 0
    ratio = results["plain"]["fit_seconds"] / results["default"]["fit_seconds"]
    (row,) = [line for line in done.stdout.splitlines() if line.startswith("| default")]
    assert row.split(" | ")[-1].removesuffix(" |") == f"{ratio:.2f}"


def test_the_quality_benchmark_measures_variants_and_other_models(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    root = write_category("part")
    for index in range(4, 10):
        write_image(root / "part" / "train" / "good" / f"{index:03}.png", seed=index)
    variants = ["strides 8 to 32", "PatchCore"]
    command = [
        *readme.command("python -m benchmarks.quality"), "--root", root, "--categories", "part",
        "--variants", *variants,
        "--seeds", "0", "1", "--epochs", "1", "--backbone", "resnet18", "--teacher-weights", teacher_file,
        "--latency", "--output", tmp_path / "results",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    part = json.loads((tmp_path / "results" / "1_epochs.json").read_text(encoding="utf-8"))["part"]
    assert list(part["runs"]) == list(part["latency"]) == variants
    for name, results in part["runs"].items():
        values = [result["metrics"]["image_AUROC"] for result in results]
        assert f"| {name} | 2 | {mean(values):.4f} ({stdev(values):.4f}) |" in done.stdout
        for result in results:
            assert {"pixel_AUROC", "AUPRO", "PointingGame", "CoveredAUROC"} <= set(result["metrics"])
            assert result["metrics"]["image_F1Score"] <= result["metrics"]["image_F1Max"] + 1e-6


def test_the_deployment_benchmark_times_exported_models_and_infer(
    write_category: CategoryWriter, tmp_path: Path
) -> None:
    command = [
        *readme.command("python -m benchmarks.deployment"), "--root", write_category("part"), "--category", "part",
        "--images", "6", "--size", "80", "--rounds", "1", "--seconds", "0.1", "--output", tmp_path / "results",
    ]  # fmt: skip
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    record = json.loads((tmp_path / "results" / "deployment.json").read_text(encoding="utf-8"))
    assert {timing["model"] for timing in record["timings"]} == {"anomalib's", "ours", "ours, INT8"}
    peer, ours = (next(t for t in record["timings"] if t["model"] == name) for name in ("anomalib's", "ours"))
    assert f"| ours | f32 | {ours['median_ms']:.2f} | {ours['median_ms'] / peer['median_ms']:.3f} |" in done.stdout
    for run in record["end_to_end"]:
        assert run["images"] == 6
        assert f"| {run['share_of_network']:.2f} | {run['settled_bytes'] / 1e6:.0f} |" in done.stdout


def test_the_benchmark_of_false_alarms_compares_with_the_quantile() -> None:
    command = [*readme.command("python -m benchmarks.false_alarms"), "--sets", "50"]
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    assert len(re.findall(r"^\| \d+ \|(?: \d\.\d \(\d+\.\d\) \|){6}$", done.stdout, re.MULTILINE)) == 8


def test_the_load_benchmark_finds_no_leak_and_no_different_score(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.reliability.load", "--images", "1000", "--output", tmp_path]
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    load = json.loads((tmp_path / "load.json").read_text(encoding="utf-8"))
    assert load["images"] == load["images_of_threads"] == 1000
    assert load["different"] == load["different_in_threads"] == 0
    assert load["descriptors_after"] == load["descriptors_before"] > 0
    assert load["highest_bytes"] < 1.02 * load["warm_bytes"]
    assert f"{load['images']} images in " in done.stdout


def test_the_cluster_benchmark_compares_workers_with_one_process(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    command = [
        *readme.command("python -m benchmarks.cluster"), "--images", "40", "--rounds", "1", "--epochs", "1",
        "--jobs", "3", "--output", tmp_path,
    ]  # fmt: skip
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    record = json.loads((tmp_path / "cluster.json").read_text(encoding="utf-8"))
    single, worker = (record["infer"][name]["images_per_second"] for name in ("one process", "1 worker"))
    assert f"| 1 worker | {worker:.1f} | {worker:.1f} | {worker:.1f} | {worker / single:.2f} |" in done.stdout
    assert record["train_seconds"] > 0
    assert record["jobs"]["seconds_per_job"] > 0


def test_the_numbers_benchmark_checks_every_bound() -> None:
    command = readme.command("python -m benchmarks.reliability.numbers")
    done = subprocess.run(command, cwd=readme.REPOSITORY, check=True, capture_output=True, text=True)
    rows = re.findall(r"^\| (\w.+?) \| \S+e", done.stdout, re.MULTILINE)
    assert sorted(rows) == sorted(numbers.BOUNDS)
