"""An exported model finds defects and is timed without torch."""

import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from anomalib.data.utils import read_image

from anomalib_stfpm import Stfpm

from .conftest import trained_for_a_step, written

pytestmark = pytest.mark.integration

# Runs the command, then says which packages it has imported.
REPORTING = """
import sys
started = set(sys.modules)  # .pth files of other packages import what they like
from anomalib_stfpm_deploy.cli import main
try:
    main()
finally:
    found = {name.partition(".")[0] for name in set(sys.modules) - started} - set(sys.stdlib_module_names)
    print("imported:", *sorted(name for name in found if not name.startswith("_")), file=sys.stderr)
"""
NEEDED = {"anomalib_stfpm_deploy", "cv2", "numpy", "openvino"}
COME_WITH_THEM = {"cython_runtime", "openvino_telemetry", "packaging"}


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    run = [sys.executable, "-c", REPORTING, *map(str, arguments)]
    return subprocess.run(run, capture_output=True, text=True, check=False)


def rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_infer_scores_images_without_torch_and_lists_what_it_cannot_read(
    model: Stfpm, exported: Path, tmp_path: Path
) -> None:
    paths = written(tmp_path / "images")
    (tmp_path / "images" / "broken.png").write_bytes(paths[0].read_bytes()[:50])
    (tmp_path / "images" / "empty.jpg").touch()
    output = tmp_path / "output"
    done = command("infer", "--model", exported, "--input", tmp_path / "images", "--output", output)
    assert done.returncode == 2, done.stderr
    assert set(done.stderr.partition("imported: ")[2].split()) - COME_WITH_THEM == NEEDED
    assert "'empty.jpg' was left out: it is empty." in done.stdout
    found = {row["picture"]: row for row in rows(output)}
    anomalous = sum(row["is_anomalous"] == "True" for row in found.values())
    assert f"3 images scored, 2 unreadable, {anomalous} anomalous" in done.stdout
    assert list(found) == ["1.png", "2.jpg", "broken.png", "deeper/1.png", "empty.jpg"]
    for path in paths:
        row = found[path.relative_to(tmp_path / "images").as_posix()]
        with torch.no_grad():
            expected = model(read_image(path, as_tensor=True).unsqueeze(0))
        assert float(row["score"]) == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert row["is_anomalous"] == str(bool(expected.pred_label))
        for name in (row["heat_map"], row["overlay"]):
            image = cv2.imread(str(output / name))
            assert image is not None
            assert image.shape == (64, 64, 3)
    record = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert [one["picture"] for one in record["results"]] == list(found)


def test_infer_resumes(exported: Path, tmp_path: Path) -> None:
    images, output = tmp_path / "images", tmp_path / "output"
    written(images)
    arguments = ("infer", "--model", exported, "--input", images, "--output", output)
    assert command(*arguments).returncode == 0
    whole = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    # As if the power had failed after the first image:
    record = json.loads((output / "results.json").read_text(encoding="utf-8"))
    journal = [record["made_with"], record["results"][0]]
    (output / "results.partial.jsonl").write_text("".join(json.dumps(line) + "\n" for line in journal) + '{"pict')
    for name in ("results.json", "results.csv"):
        (output / name).unlink()
    kept = output / record["results"][0]["heat_map"]
    time_of_change = kept.stat().st_mtime_ns
    assert command(*arguments).returncode == 0
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == whole
    assert kept.stat().st_mtime_ns == time_of_change


@pytest.mark.parametrize(
    ("options", "shape"),
    [(["--full-size"], (150, 100, 3)), (["--streams", "1"], (64, 64, 3)), (["--no-pictures"], None)],
)
def test_options_of_infer(
    options: Sequence[str], shape: tuple[int, ...] | None, exported: Path, tmp_path: Path
) -> None:
    cv2.imwrite(str(tmp_path / "large.png"), np.random.default_rng(0).integers(0, 256, (150, 100, 3), dtype=np.uint8))
    output = tmp_path / "output"
    done = command("infer", "--model", exported, "--input", tmp_path / "large.png", "--output", output, *options)
    assert done.returncode == 0, done.stderr
    (row,) = rows(output)
    for name in (row["heat_map"], row["overlay"]):
        image = cv2.imread(str(output / name)) if name else None
        assert (None if image is None else image.shape) == shape


def test_time_compares_models_without_torch(exported: Path, tmp_path: Path) -> None:
    onnx = trained_for_a_step("resnet18").to_onnx(tmp_path)
    done = command(
        "time", "--model", exported, onnx, "--precision", "f32", "--rounds", 2, "--seconds", 0.2,
        "--output", tmp_path / "time.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(done.stderr.partition("imported: ")[2].split()) - COME_WITH_THEM == NEEDED
    record = json.loads((tmp_path / "time.json").read_text(encoding="utf-8"))
    first, second = record["timings"]
    assert first["median_ms"] <= first["p95_ms"] <= first["p99_ms"]
    assert f"| {second['median_ms'] / first['median_ms']:.3f} |" in done.stdout
    assert f"| {first['pictures_per_second']:.1f} |" in done.stdout
    assert first["size_bytes"] == exported.stat().st_size + exported.with_suffix(".bin").stat().st_size
    assert all(
        timing[name] > 0 for timing in record["timings"] for name in ("load_seconds", "first_ms", "resident_bytes")
    )
    assert record["machine"]["versions"].keys() >= {"openvino", "numpy"}


@pytest.mark.parametrize(
    ("verb", "package", "sentence"),
    [
        (
            "train",
            "torch",
            "Only verbs for exported models do without torch: install anomalib-stfpm with what it depends on.",
        ),
        ("infer", "openvino", "This needs openvino: pip install 'anomalib-stfpm[openvino]'."),
    ],
)
def test_a_verb_names_the_package_that_is_missing(verb: str, package: str, sentence: str) -> None:
    without = f"import sys\nsys.modules[{package!r}] = None\n{REPORTING}"
    done = subprocess.run([sys.executable, "-c", without, verb], capture_output=True, text=True, check=False)
    assert done.returncode == 120
    assert f"anomalib-stfpm: error: {sentence}" in done.stderr
