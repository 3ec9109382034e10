"""``infer --cluster`` gives the scores of ``infer``, from any file system, also when a node dies, and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from anomalib_stfpm_deploy.infer.verb import main
from tests.conftest import write_image

from .conftest import HEARS_CONTROL_C
from .object_store import object_store
from .two_nodes import TwoNodes

parquet = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("ray")
pytestmark = [pytest.mark.integration, pytest.mark.slow]

COUNT, MANY = 60, 6000


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images in deeper folders, one of them not readable."""
    folder = tmp_path / "images"
    for index in range(COUNT):
        write_image(folder / f"{index % 3}" / "a'ü <b>" / f"{index:03}.png", seed=index, defect=index % 5 == 0)
    (folder / "broken.png").write_bytes(b"no image")
    return folder


def infer(model: Path, images: object, output: object, *more: object) -> int:
    return main(["--model", str(model), "--input", str(images), "--output", str(output), *map(str, more)])


def by_ray(folder: Path) -> dict[str, Any]:
    """The results by image; each image must be there once."""
    rows = parquet.read_table(folder / "scores").to_pylist()
    results = {row["image"]: (row["score"], row["is_anomalous"], row["unreadable"]) for row in rows}
    assert len(results) == len(rows)
    return results


def without_ray(model: Path, images: Path, folder: Path) -> dict[str, Any]:
    infer(model, images, folder, "--no-pictures")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
    return {str(images / one["picture"]): (one["score"], one["is_anomalous"], one["unreadable"]) for one in results}


def test_the_scores_are_those_of_infer_when_a_node_dies(
    cluster: TwoNodes, exported: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    for index in range(COUNT, MANY):
        os.link(images / "0" / "a'ü <b>" / "000.png", images / "1" / f"{index}.png")
    with cluster.loses_a_node(lambda: list(output.glob("scores/*.parquet"))):
        assert infer(exported, images, output, "--cluster", cluster.address, "--workers", 2) == 1
    assert f"{MANY} images scored, 0 of them before, 1 unreadable: {output}/scores" in capsys.readouterr().out
    assert by_ray(output) == without_ray(exported, images, tmp_path / "here")
    assert {path.suffix for path in (output / "scores").iterdir()} == {".parquet"}


def test_only_new_and_changed_and_unreadable_images_are_scored_again(
    cluster: TwoNodes, exported: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"
    assert infer(exported, images, output, "--cluster", cluster.address) == 1
    assert infer(exported, images, output, "--cluster", cluster.address) == 1
    assert f"{COUNT} images scored, {COUNT} of them before, 1 unreadable" in capsys.readouterr().out
    write_image(images / "broken.png", seed=1)
    write_image(images / "new.png", seed=2)
    write_image(images / "0" / "a'ü <b>" / "000.png", seed=3)
    assert infer(exported, images, output, "--cluster", cluster.address) == 0
    assert f"{COUNT + 2} images scored, {COUNT - 1} of them before, 0 unreadable" in capsys.readouterr().out
    assert by_ray(output) == without_ray(exported, images, tmp_path / "here")
    with pytest.raises(ValueError, match="holds results that were made with another precision: give another output"):
        infer(exported, images, output, "--cluster", cluster.address, "--precision", "bf16")


def test_images_are_read_from_an_object_store_and_scores_written_to_it(
    cluster: TwoNodes, exported: Path, images: Path, tmp_path: Path
) -> None:
    fs: Any = pytest.importorskip("pyarrow.fs")
    if not hasattr(fs, "S3FileSystem"):
        pytest.skip("this PyArrow has no S3")
    paths = [path for path in images.rglob("*") if path.is_file()]
    objects = {f"parts/new/{path.relative_to(images).as_posix()}": path.read_bytes() for path in paths}
    with object_store(objects) as options:
        given = (exported, f"s3://parts/new{options}", f"s3://parts/output{options}", "--cluster", cluster.address)
        for _ in range(2):
            assert infer(*given) == 1
    for key, content in objects.items():
        if key.endswith(".parquet"):
            (tmp_path / "copy" / "scores").mkdir(parents=True, exist_ok=True)
            (tmp_path / "copy" / "scores" / Path(key).name).write_bytes(content)
    here = without_ray(exported, images, tmp_path / "here")
    assert by_ray(tmp_path / "copy") == {
        f"s3://parts/new/{Path(name).relative_to(images).as_posix()}": result for name, result in here.items()
    }


def test_a_machine_that_does_not_see_the_images_is_named(
    cluster: TwoNodes, exported: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomalib_stfpm_deploy.cluster.partitions import Partitions

    in_folder = Partitions.in_folder

    def on_a_disk_of_this_machine(*given: Any) -> Partitions:  # noqa: ANN401
        made = in_folder(*given)
        (tmp_path / "output" / "made_with.json").unlink()
        return made

    monkeypatch.setattr(Partitions, "in_folder", on_a_disk_of_this_machine)
    with pytest.raises(ValueError, match=r"^The machine '.+' does not see '.+output' \(.+\): give images and an"):
        infer(exported, images, tmp_path / "output", "--cluster", cluster.address)


@pytest.mark.skipif(os.name != "posix", reason="other systems have no such signals")
def test_control_c_stops_it_and_the_same_command_goes_on(
    cluster: TwoNodes, exported: Path, images: Path, tmp_path: Path
) -> None:
    output = tmp_path / "output"
    for index in range(COUNT, MANY):
        os.link(images / "0" / "a'ü <b>" / "000.png", images / f"{index}.png")
    command = [
        sys.executable, "-m", "anomalib_stfpm_deploy", "infer", "--model", exported, "--input", images, "--output",
        output, "--cluster", cluster.address, "--workers", "2",
    ]  # fmt: skip
    process = subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **HEARS_CONTROL_C
    )
    while not list(output.glob("scores/*.parquet")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert said.rstrip().endswith("Interrupted: the same command resumes.")
    scored = len(by_ray(output))
    assert 0 < scored < MANY
    assert infer(exported, images, output, "--cluster", cluster.address, "--workers", 2) == 1
    assert len(by_ray(output)) == MANY + 1
