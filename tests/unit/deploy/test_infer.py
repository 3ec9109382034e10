"""``infer`` finds images, gives them unique names and shows its progress."""

import io
import sys
from pathlib import Path

import pytest

from anomalib_stfpm_deploy.infer.found import find_images
from anomalib_stfpm_deploy.infer.verb import show_progress


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_only_images_are_found_in_all_folders_below(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.PNG", "a/c.jpg", "a/d.txt", "a/e.json")))
    (tmp_path / "a" / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert [name for name, _ in find_images([tmp_path])] == ["a/c.jpg", "b.PNG"]


def test_a_given_file_may_have_any_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "image.dat")
    assert list(find_images([tmp_path / "image.dat"])) == [("image.dat", tmp_path / "image.dat")]


def test_images_of_the_same_name_get_numbers(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "b" / "1_2.png")
    names = [name for name, _ in find_images([tmp_path / "a", tmp_path / "b", tmp_path / "b" / "1.png"])]
    assert names == ["1.png", "1_2.png", "1_2_2.png", "1_3.png"]


def test_missing_inputs_and_folders_without_images_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing' does not exist\."):
        list(find_images([tmp_path / "missing"]))
    with pytest.raises(FileNotFoundError, match=r"There are no images in .*: they end in \.bmp, \.jpeg"):
        list(find_images([tmp_path]))


@pytest.mark.parametrize("is_terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: is_terminal)
    monkeypatch.setattr(sys, "stderr", stream)
    show_progress(3, 3, 1.5)
    expected = "3/3 images, 2.0 images/s, 0 s left"
    assert stream.getvalue().strip() == (expected if is_terminal else "")
