"""The demo category and the datamodule for images in MVTec AD's layout."""

import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from skimage import data as photographs

from anomalib_stfpm.data import MVTecLayout, TextureDemo, texture_demo
from anomalib_stfpm.data.defects import DEFECTS
from anomalib_stfpm.data.texture_demo import CATEGORIES, write_category
from tests.conftest import write_image, write_mask


def pixels(path: Path) -> npt.NDArray[np.uint8]:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("demo")
    for category in CATEGORIES:
        write_category(root, category)
    return root


@pytest.mark.parametrize("category", CATEGORIES)
def test_a_demo_category_is_read_by_anomalib(category: str, demo_root: Path) -> None:
    datamodule = TextureDemo(root=demo_root, category=category)
    datamodule.prepare_data()
    datamodule.setup()
    assert len(datamodule.train_data) == 60
    assert len(datamodule.test_data) == 20 + 8 * len(DEFECTS)
    assert datamodule.test_data.samples.label_index.value_counts().to_dict() == {1: 32, 0: 20}
    defective = next(item for item in datamodule.test_data if item.gt_label)
    assert defective.gt_mask.any()


@pytest.mark.parametrize("category", CATEGORIES)
def test_no_training_pixel_is_tested_on(category: str, demo_root: Path) -> None:
    photograph = getattr(photographs, category)()
    for split, columns in (("train", slice(None, 320)), ("test", slice(320, None))):
        part = np.lib.stride_tricks.sliding_window_view(photograph[:, columns], (160, 160))
        for path in sorted((demo_root / category / split / "good").iterdir())[:5]:
            image = pixels(path)
            candidates = np.argwhere((part[:, :, 0, 0] == image[0, 0]) & (part[:, :, -1, -1] == image[-1, -1]))
            assert any(np.array_equal(part[row, column], image) for row, column in candidates), path


@pytest.mark.parametrize("kind", DEFECTS)
def test_masks_mark_the_changed_pixels(kind: str) -> None:
    generator = np.random.default_rng(0)
    image = generator.uniform(0.3, 0.7, size=(160, 160))
    for _ in range(20):
        original = image.copy()
        changed, mask = DEFECTS[kind](image, generator)
        assert np.array_equal(image, original)
        assert np.array_equal(changed != image, mask)
        assert 0.001 < mask.mean() < 0.4
        assert changed.min() >= 0
        assert changed.max() <= 1


def test_the_same_images_are_made_every_time(demo_root: Path, tmp_path: Path) -> None:
    again = write_category(tmp_path, "gravel")
    files = sorted(path.relative_to(again) for path in again.rglob("*.png"))
    assert len(files) == 60 + 20 + 2 * 32
    assert all(np.array_equal(pixels(again / path), pixels(demo_root / "gravel" / path)) for path in files)


def test_an_interrupted_first_use_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Path] = []
    save = texture_demo._save

    def interrupted(image: npt.NDArray[np.float64], path: Path) -> None:
        if len(saved) == 70:
            raise KeyboardInterrupt
        save(image, path)
        saved.append(path)

    monkeypatch.setattr(texture_demo, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_category(tmp_path, "brick")
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_comes_second_takes_the_firsts_images(
    demo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def another_was_faster(source: Path, target: Path) -> NoReturn:
        target.symlink_to(demo_root / "brick")
        replace(source, target / "readme.txt" / "impossible")
        raise AssertionError

    monkeypatch.setattr("anomalib_stfpm.data.texture_demo.os.replace", another_was_faster)
    assert write_category(tmp_path, "brick") == tmp_path / "brick"
    assert [path.name for path in tmp_path.iterdir()] == ["brick"]


def test_a_folder_of_the_users_is_not_touched_and_not_taken_for_the_demo(tmp_path: Path) -> None:
    write_image(tmp_path / "brick" / "mine.png", seed=0)
    with pytest.raises(ValueError, match="not the demo category of this version: choose another root"):
        TextureDemo(root=tmp_path, category="brick").prepare_data()
    assert [path.name for path in (tmp_path / "brick").iterdir()] == ["mine.png"]


def test_an_unknown_demo_category_names_those_there_are() -> None:
    with pytest.raises(ValueError, match="no category 'bottle': choose from brick, grass, gravel"):
        TextureDemo(category="bottle")


@pytest.mark.parametrize("has_masks", [True, False])
def test_mvtec_layout_reads_any_format_with_and_without_masks(has_masks: bool, tmp_path: Path) -> None:
    for index in range(3):
        write_image(tmp_path / "part" / "train" / "good" / f"{index}.jpg", seed=index)
    write_image(tmp_path / "part" / "test" / "good" / "0.bmp", seed=5)
    for kind in ("crack", "dent"):
        write_image(tmp_path / "part" / "test" / kind / "0.jpg", seed=6, defect=True)
        if has_masks:
            write_mask(tmp_path / "part" / "ground_truth" / kind / "0_mask.png")
    datamodule = MVTecLayout(root=tmp_path, category="part")
    datamodule.setup()
    assert (datamodule.name, datamodule.category) == ("MVTecLayout", "part")
    assert len(datamodule.train_data) == 3
    assert len(datamodule.test_data) == len(datamodule.val_data) == 3
    assert [item.gt_mask is not None for item in datamodule.test_data if item.gt_label] == [has_masks] * 2


def test_mvtec_layout_says_which_folder_is_missing(tmp_path: Path) -> None:
    write_image(tmp_path / "part" / "train" / "good" / "0.png", seed=0)
    with pytest.raises(FileNotFoundError, match="not in MVTec AD's layout: it has no folder 'test'"):
        MVTecLayout(root=tmp_path, category="part")
    with pytest.raises(FileNotFoundError, match="it has no folder 'train/good'"):
        MVTecLayout(root=tmp_path, category="screw")
