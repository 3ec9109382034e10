"""Pictures are found in folders and told apart."""

from pathlib import Path

import pytest

from anomalib_stfpm_deploy.infer import find_pictures


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_pictures_are_found_in_all_folders_below_and_other_files_are_not(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.PNG", "a/c.jpg", "a/d.txt", "a/e.json")))
    (tmp_path / "a" / "circle").symlink_to(tmp_path, target_is_directory=True)
    assert [name for name, _ in find_pictures([tmp_path])] == ["a/c.jpg", "b.PNG"]


def test_a_file_is_taken_whatever_its_name(tmp_path: Path) -> None:
    touch(tmp_path / "picture.dat")
    assert list(find_pictures([tmp_path / "picture.dat"])) == [("picture.dat", tmp_path / "picture.dat")]


def test_pictures_of_one_name_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png", tmp_path / "b" / "1_2.png")
    names = [name for name, _ in find_pictures([tmp_path / "a", tmp_path / "b", tmp_path / "b" / "1.png"])]
    assert names == ["1.png", "1_2.png", "1_2_2.png", "1_3.png"]


def test_what_does_not_exist_and_folders_without_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing' does not exist\."):
        list(find_pictures([tmp_path / "missing"]))
    with pytest.raises(FileNotFoundError, match=r"There are no pictures in .*: they end in \.bmp, \.jpeg"):
        list(find_pictures([tmp_path]))
