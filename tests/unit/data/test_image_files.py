"""anomalib's datasets find and read images by one rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib.data import Folder, PredictDataset
from PIL import Image
from torch.utils.data import DataLoader

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.data.image_files import UnusableFileError, open_image
from anomalib_stfpm_deploy.image import read_image
from anomalib_stfpm_deploy.infer.found import find_images
from tests.conftest import write_image, write_mask

TURNED = Image.Exif()
TURNED[0x0112] = 6


def save(path: Path, values: Any, **options: Any) -> Path:  # noqa: ANN401
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def category(folder: Path) -> MVTecLayout:
    return MVTecLayout(folder, "part", num_workers=0)


@pytest.fixture
def part(tmp_path: Path) -> Path:
    write_image(tmp_path / "part/train/good/0.png", seed=0)
    write_image(tmp_path / "part/test/good/0.png", seed=1)
    return tmp_path / "part"


def test_an_image_of_16_bits_has_the_same_values_in_training_prediction_and_inference(part: Path) -> None:
    path = save(part / "train/good/0.png", np.full((64, 64), 5000, np.uint16))
    datamodule = category(part.parent)
    datamodule.setup()
    for image in (datamodule.train_data[0].image, PredictDataset(path)[0].image):
        assert float(image.min()) == float(image.max()) == pytest.approx(5000 / 65535)
    assert np.allclose(read_image(path), 5000 / 65535)
    assert np.asarray(open_image(path)).max() == round(5000 / 257)


@pytest.mark.slow
def test_a_worker_process_that_starts_afresh_reads_by_the_same_rule(tmp_path: Path) -> None:
    dataset = PredictDataset(save(tmp_path / "0.png", np.full((64, 64), 5000, np.uint16)))
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context="spawn", collate_fn=dataset.collate_fn)
    (batch,) = loader
    assert float(batch.image.max()) == pytest.approx(5000 / 65535)


def test_an_image_is_turned_as_its_tag_says_to_fit_its_mask(part: Path) -> None:
    upright = np.zeros((40, 60, 3), np.uint8)
    upright[:10, 20:30] = 255  # a defect that a viewer shows at the top
    save(part / "test/crack/0.png", np.rot90(upright), exif=TURNED)
    save(part / "ground_truth/crack/0_mask.png", upright[..., 0])
    datamodule = category(part.parent)
    datamodule.setup()
    (item,) = [item for item in datamodule.test_data if item.gt_label]
    assert torch.equal(item.image[0] > 0.5, item.gt_mask > 0)
    assert open_image(item.image_path).size == (60, 40)


def test_a_mask_of_another_size_is_rejected_by_name(part: Path) -> None:
    write_image(part / "test/crack/0.png", seed=2)
    save(part / "ground_truth/crack/0_mask.png", np.zeros((20, 30), np.uint8))
    datamodule = category(part.parent)
    datamodule.setup()
    with pytest.raises(
        UnusableFileError, match=r"0_mask.png' is a mask of 20 x 30 pixels for '.*0.png', which has 64 x 64"
    ):
        [datamodule.test_data[index] for index in range(2)]


@pytest.mark.parametrize("name", ["{}", "{}_mask", "mask_{}"])
def test_masks_are_paired_by_name_and_not_in_their_order(name: str, part: Path) -> None:
    for index in (1, 2, 10):
        write_image(part / f"test/crack/{index}.jpg", seed=index, defect=True)
        save(part / f"ground_truth/crack/{name.format(index)}.png", np.full((64, 64), index * (index > 1), np.uint8))
    datamodule = category(part.parent)
    datamodule.setup()
    pairs = {Path(item.image_path).stem: Path(item.mask_path).stem for item in datamodule.test_data if item.gt_label}
    assert pairs == {stem: name.format(stem) for stem in ("1", "2", "10")}


def test_an_image_without_a_mask_of_its_name_is_rejected(part: Path) -> None:
    write_image(part / "test/crack/1.png", seed=1, defect=True)
    write_mask(part / "ground_truth/crack/2_mask.png")
    with pytest.raises(UnusableFileError, match=r"1.png' has no masks: name its mask 1_mask.png"):
        category(part.parent).setup()


def test_what_tools_leave_in_folders_is_no_image(part: Path) -> None:
    write_image(part / "test/crack/0.png", seed=2, defect=True)
    write_mask(part / "ground_truth/crack/0_mask.png")
    for folder in ("train/good", "test/good", "test/crack", "ground_truth/crack"):
        (part / folder / "._0.jpg").write_bytes(b"Mac OS X")
        write_image(part / folder / ".ipynb_checkpoints" / "0-checkpoint.png", seed=3)
    write_image(part / "test/.ipynb_checkpoints/0.png", seed=3)
    datamodule = category(part.parent)
    datamodule.setup()
    assert (len(datamodule.train_data), len(datamodule.test_data)) == (1, 2)
    assert len(PredictDataset(part)) == 4
    assert len(list(find_images([part]))) == 4
    plain = Folder("part", root=part, normal_dir="train/good", abnormal_dir="test/crack", mask_dir="ground_truth/crack")
    plain.setup()
    assert len(plain.train_data) + len(plain.test_data) == 2


def test_good_may_be_written_in_capitals_and_the_root_be_relative(part: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (part / "test/good").rename(part / "test/Good")
    write_image(part / "test/crack/0.png", seed=2, defect=True)
    monkeypatch.chdir(part.parent.parent)
    datamodule = category(Path(part.parent.name))
    datamodule.setup()
    assert [int(item.gt_label) for item in datamodule.test_data] == [0, 1]


def test_a_file_that_is_no_image_is_named_in_one_sentence_also_by_a_worker_process(tmp_path: Path) -> None:
    write_image(tmp_path / "0.png", seed=0)
    (tmp_path / "1.png").write_bytes(b"no image")
    dataset = PredictDataset(tmp_path)
    loader = DataLoader(dataset, num_workers=1, collate_fn=dataset.collate_fn)
    with pytest.raises(UnusableFileError) as raised:
        list(loader)
    assert str(raised.value) == f"'{tmp_path / '1.png'}' cannot be used: it is not an image, or not a whole one."


def test_an_image_of_200_megapixels_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "0.png", np.zeros((14_000, 14_300), np.uint8))
    assert PredictDataset(path)[0].image.shape == (3, 14_000, 14_300)
