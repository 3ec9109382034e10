"""Missing and damaged images of a category are reported before training."""

from collections.abc import Callable
from pathlib import Path
from shutil import rmtree

import pytest

from anomalib_stfpm.reproduction import category
from tests.conftest import CategoryWriter


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def remove_images(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


@pytest.fixture
def folder(write_category: CategoryWriter) -> Path:
    return write_category("part") / "part"


def test_a_complete_category_has_no_problem_with_and_without_masks(folder: Path) -> None:
    assert category.problem(folder) is None
    rmtree(folder / "ground_truth")
    assert category.problem(folder) is None


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (rmtree, "there is no folder '{}'"),
        (lambda folder: rmtree(folder / "train"), "'{}/train/good' holds no images to train with"),
        (lambda folder: remove_images(folder / "train/good"), "'{}/train/good' holds no images to train with"),
        (lambda folder: rmtree(folder / "test"), "'{}/test/good' holds no images to test with"),
        (lambda folder: rmtree(folder / "test/bad"), "'{}/test' holds no images of defects"),
        (lambda folder: rmtree(folder / "ground_truth/bad"), "'{}/ground_truth/bad' holds 0 masks for 2 images"),
        (
            lambda folder: (folder / "ground_truth/bad/001.png").unlink(),
            "'{}/ground_truth/bad' holds 1 masks for 2 images",
        ),
        (
            lambda folder: truncate(folder / "train/good/003.png"),
            "'{}/train/good/003.png' cannot be used: it is not an image",
        ),
        (
            lambda folder: truncate(folder / "test/bad/001.png"),
            "'{}/test/bad/001.png' cannot be used: it is not an image",
        ),
        (
            lambda folder: (folder / "ground_truth/bad/000.png").write_bytes(b""),
            "'{}/ground_truth/bad/000.png' cannot be used as a mask: it is empty",
        ),
    ],
)
def test_the_problem_names_what_is_missing_or_damaged(
    damage: Callable[[Path], None], problem: str, folder: Path
) -> None:
    damage(folder)
    assert (category.problem(folder) or "").startswith(problem.format(folder))


def test_categories_are_the_visible_folders_of_the_root(folder: Path) -> None:
    root = folder.parent
    (root / "another").mkdir()
    (root / ".hidden").mkdir()
    (root / "licence.txt").touch()
    assert category.categories_in(root) == ["another", "part"]
    with pytest.raises(FileNotFoundError, match=r"nowhere' is not a folder"):
        category.categories_in(root / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no category"):
        category.categories_in(root / "another")
