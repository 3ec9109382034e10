"""What a line needs of ``infer``: thresholds from its own good parts, and exit codes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from anomalib.post_processing import PostProcessor

from anomalib_stfpm import Stfpm
from anomalib_stfpm.components.post_processor import RawThresholds
from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.exported_model import threshold
from anomalib_stfpm_deploy.image import read_image
from anomalib_stfpm_deploy.infer import verb
from anomalib_stfpm_deploy.infer.verb import ANOMALOUS
from anomalib_stfpm_deploy.network import Network
from anomalib_stfpm_deploy.thresholds import Thresholds, threshold_of
from tests.conftest import write_image

from .conftest import tiny_category, trained_for_a_step, written

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def normal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images that are known to be good. Nothing may change it."""
    folder = tmp_path_factory.mktemp("normal")
    for seed in range(6):
        write_image(folder / f"{seed}.png", seed=100 + seed)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images, one of which has a defect. Nothing may change it."""
    folder = tmp_path_factory.mktemp("images")
    written(folder)
    return folder


def infer(model: Path, images: Path, output: Path, *options: object) -> tuple[int, dict[str, Any]]:
    """Run ``infer``; return its exit code and what it has written."""
    arguments = ["--model", model, "--input", images, "--output", output, *options]
    code = verb.main([str(one) for one in arguments])
    return code, json.loads((output / "results.json").read_text(encoding="utf-8"))


def labels(record: dict[str, Any]) -> list[bool]:
    return [one["is_anomalous"] for one in record["results"]]


def test_thresholds_from_normal_images_are_those_of_their_scores(
    exported: Path, normal: Path, images: Path, tmp_path: Path
) -> None:
    network = Network(exported, clamp=False)
    found = [network.predict(network.prepare(read_image(path))) for path in sorted(normal.iterdir())]
    expected = threshold_of([one.score for one in found], 0.2)
    pixels = threshold_of(np.stack([one.anomaly_map for one in found]), 0.2)
    _, record = infer(exported, images, tmp_path, "--normal-images", normal, "--false-alarm-rate", 0.2)
    assert record["made_with"]["thresholds"] == pytest.approx({"image": expected, "pixel": pixels}, rel=3e-4)
    assert record["made_with"]["false_alarm_rate"] == 0.2
    assert labels(record) == [one["score"] > expected for one in record["results"]]
    heat_map = tmp_path / record["results"][0]["heat_map"]
    written_at = heat_map.stat().st_mtime_ns
    infer(exported, images, tmp_path, "--normal-images", normal, "--false-alarm-rate", 0.2)  # the same resumes
    assert heat_map.stat().st_mtime_ns == written_at


def test_a_threshold_by_hand_decides_and_leaves_the_scores(exported: Path, images: Path, tmp_path: Path) -> None:
    _, own = infer(exported, images, tmp_path / "own")
    assert own["made_with"]["thresholds"] == {"image": 0.5, "pixel": 0.5}
    low, middle, high = sorted(one["score"] for one in own["results"])
    for given in ((low + middle) / 2, (middle + high) / 2):
        _, record = infer(exported, images, tmp_path / str(given), "--threshold", given)
        assert record["made_with"]["thresholds"] == {"image": given, "pixel": 0.5}
        assert [one["score"] for one in record["results"]] == [one["score"] for one in own["results"]]
        assert labels(record) == [one["score"] > given for one in own["results"]]


def test_results_with_another_threshold_are_not_mixed(exported: Path, images: Path, tmp_path: Path) -> None:
    infer(exported, images, tmp_path, "--threshold", 0.4)
    with pytest.raises(ValueError, match="made with another thresholds and clamping: give another"):
        infer(exported, images, tmp_path)


def test_the_exit_code_says_whether_an_image_is_anomalous(exported: Path, images: Path, tmp_path: Path) -> None:
    for given, expected in ((-10, ANOMALOUS), (10, 0)):
        options = ("--threshold", given, "--fail-on-anomaly", "--no-pictures")
        code, record = infer(exported, images, tmp_path / str(given), *options)
        assert (code, set(labels(record))) == (expected, {given < 0})
    assert infer(exported, images, tmp_path / "without", "--threshold", -10, "--no-pictures")[0] == 0


def test_a_normal_image_that_cannot_be_read_is_refused(exported: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "normal").mkdir()
    (tmp_path / "normal" / "broken.png").touch()
    with pytest.raises(ValueError, match=r"broken.png' cannot be used as a normal image: it is empty\."):
        infer(exported, images, tmp_path / "output", "--normal-images", tmp_path / "normal")


@pytest.fixture(
    scope="module",
    params=["fp32", "raw", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fp16", "int8_ptq", "anomalib's"))],
)
def kind_of_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, exported: Path) -> Path:
    """Exported models whose graphs differ in what is around the thresholds. Nothing may change them."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "fp32":
        return exported
    if request.param in ("fp16", "int8_ptq"):
        stfpm = trained_for_a_step("resnet18", visualizer=False)
        data = tiny_category(folder / "images")
        return stfpm.to_openvino(folder, compression_type=request.param, datamodule=data)
    return _with_other_post_processor(request.param, folder)


def _with_other_post_processor(kind: str, folder: Path) -> Path:
    processor = RawThresholds(enable_normalization=False) if kind == "raw" else PostProcessor()
    return trained_for_a_step("resnet18", visualizer=False, post_processor=processor).to_openvino(folder)


def copied(model: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for part in (model, model.with_suffix(".bin")):
        shutil.copy(part, folder)
    return folder / model.name


def outputs(model: Path, images: Path) -> list[dict[str, Any]]:
    """All outputs of a model for all images."""
    network = Network(model)
    found = []
    for path in sorted(images.glob("*.*")):
        result = network.compiled(network.prepare(read_image(path)))
        found.append({name: value for output, value in result.items() for name in output.get_names()})
    return found


def test_the_written_thresholds_are_those_of_infer_and_all_outputs_agree(
    kind_of_model: Path, normal: Path, images: Path, tmp_path: Path
) -> None:
    model = copied(kind_of_model, tmp_path / "model")
    options = ("--normal-images", normal, "--false-alarm-rate", 0.3)
    _, by_infer = infer(model, images, tmp_path / "by_infer", *options)
    own = Network(model).thresholds
    threshold.main([str(model), *map(str, options)])
    _, by_model = infer(model, images, tmp_path / "by_model")
    assert labels(by_model) == labels(by_infer)
    at = Network(model).thresholds
    if "raw" not in str(kind_of_model):  # raw scores and maps stay as they are
        assert at == own
        for path in (tmp_path / "by_infer" / "heat_maps").rglob("*.png"):
            one, other = (
                read_image(each).astype(int)
                for each in (path, tmp_path / "by_model" / path.relative_to(tmp_path / "by_infer"))
            )
            assert np.abs(one - other).max() <= 4  # a level of 256
    for found in outputs(model, images):
        assert np.array_equal(found["pred_label"], found["pred_score"] > at.image)
        assert np.array_equal(found["pred_mask"], found["anomaly_map"] > at.pixel)
    note = openvino.Core().read_model(model).get_rt_info(["anomalib_stfpm", "thresholds"]).astype(str)
    assert note.endswith("from 6 normal images at a false-alarm rate of 0.3")


def test_thresholds_can_be_written_again_and_back(exported: Path, images: Path, tmp_path: Path) -> None:
    model = copied(exported, tmp_path)
    before = outputs(model, images)
    threshold.write(model, Thresholds(image=3.0, pixel=2.0), "higher")
    assert not any(found["pred_label"].any() for found in outputs(model, images))
    threshold.write(model, Thresholds(image=0.5 - 2.5, pixel=0.125), "back")
    for found, own in zip(outputs(model, images), before, strict=True):
        for name, value in own.items():
            np.testing.assert_allclose(found[name], value, atol=2e-6)
    assert model.with_suffix(".bin").stat().st_size < exported.with_suffix(".bin").stat().st_size + 1000


@pytest.mark.parametrize("interrupted", ["model.bin", "model.xml"])
def test_an_interruption_leaves_a_whole_model(
    interrupted: str, exported: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copied(exported, tmp_path)
    replace = Path.replace

    def stop(self: Path, target: Path) -> Path:
        if target.name == interrupted:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(KeyboardInterrupt):
        threshold.write(model, Thresholds(image=3.0, pixel=2.0), "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    for found, own in zip(outputs(model, images), outputs(exported, images), strict=True):
        assert all(np.array_equal(found[name], own[name]) for name in own)


def test_a_model_in_use_is_not_changed(exported: Path, normal: Path, tmp_path: Path) -> None:
    model = copied(exported, tmp_path)
    with files.lock_folder(tmp_path), pytest.raises(ValueError, match="Another command is at work in"):
        threshold.main([str(model), "--normal-images", str(normal)])


def test_a_model_without_thresholds_gets_none_but_infer_takes_them(normal: Path, images: Path, tmp_path: Path) -> None:
    stfpm: Stfpm = trained_for_a_step(
        "resnet18", visualizer=False, post_processor=PostProcessor(enable_thresholding=False)
    )
    model = stfpm.to_openvino(tmp_path)
    before = model.read_bytes()
    with pytest.raises(ValueError, match="does not compare its pred_score with a threshold: export it with thresh"):
        threshold.main([str(model), "--normal-images", str(normal)])
    assert model.read_bytes() == before
    with pytest.raises(ValueError, match="--fail-on-anomaly needs a threshold, which this model has not"):
        infer(model, images, tmp_path / "refused", "--fail-on-anomaly")
    _, record = infer(model, images, tmp_path / "found", "--threshold", 0.5)
    assert None not in labels(record)


def assert_is_coco(record: dict[str, Any]) -> None:
    """Assert what readers of COCO's object detection rely on."""
    images = {one["id"]: one for one in record["images"]}
    categories = {one["id"] for one in record["categories"]}
    assert len(images) == len(record["images"])
    assert len({one["id"] for one in record["annotations"]}) == len(record["annotations"])
    for one in record["annotations"]:
        image, (left, top, width, height) = images[one["image_id"]], one["bbox"]
        assert one["category_id"] in categories
        assert 0 <= left < left + width <= image["width"]
        assert 0 <= top < top + height <= image["height"]
        assert 0 < one["area"] <= width * height
        assert one["iscrowd"] == 0
        for polygon in one["segmentation"]:
            assert len(polygon) >= 6
            assert len(polygon) % 2 == 0
            assert (min(polygon[::2]), max(polygon[::2])) == (left, left + width)
            assert (min(polygon[1::2]), max(polygon[1::2])) == (top, top + height)


def test_regions_are_written_to_json_csv_and_coco_and_drawn(exported: Path, images: Path, tmp_path: Path) -> None:
    _, record = infer(exported, images, tmp_path)
    coco = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert_is_coco(coco)
    assert [one["file_name"] for one in coco["images"]] == [one["picture"] for one in record["results"]]
    network = Network(exported)
    number = 0
    for one in record["results"]:
        found = network.predict(network.prepare(read_image(images / one["picture"]))).anomaly_map
        assert sum(region["area"] for region in one["regions"]) == (found > 0.5).sum()
        if one["regions"]:
            assert one["regions"][0]["peak"] == pytest.approx(found.max(), rel=1e-5)
            overlay = read_image(tmp_path / one["overlay"])
            assert (overlay == 255).all(axis=2).sum() >= 4
        number += len(one["regions"])
    assert len(coco["annotations"]) == number > 0
    header, *rows = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    column = header.split(",").index("regions")
    assert [int(row.split(",")[column]) for row in rows] == [len(one["regions"]) for one in record["results"]]


def test_small_regions_are_left_out(exported: Path, images: Path, tmp_path: Path) -> None:
    areas = {}
    for smallest in (0, 4000):
        _, record = infer(exported, images, tmp_path / str(smallest), "--min-area", smallest)
        areas[smallest] = [region["area"] for one in record["results"] for region in one["regions"]]
    assert areas[4000] == [area for area in areas[0] if area >= 4000]
    assert 0 < len(areas[4000]) < len(areas[0])
