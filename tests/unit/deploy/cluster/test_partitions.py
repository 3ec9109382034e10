"""Images are found as ``infer`` finds them, and their scores are kept until an image changes."""

import json
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
from anomalib_stfpm_deploy.cluster.partitions import KnownImages, Partitions
from anomalib_stfpm_deploy.cluster.storage import Place, find_images
from anomalib_stfpm_deploy.infer.found import find_images as find_images_of_infer
from anomalib_stfpm_deploy.results import Result

MADE_WITH = {"model": "a", "precision": "f32"}


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")


def found(*inputs: Path) -> list[str]:
    return [name for name, _, _ in find_images([Place.of(str(one)) for one in inputs])]


def test_the_images_are_those_that_infer_finds(tmp_path: Path) -> None:
    names = ("b.PNG", "a/c.jpg", "a/d.txt", "a/._e.png", ".f/g.png", "h.png/i.png", "ü 'b/<j>.tiff")
    touch(*(tmp_path / name for name in names))
    (tmp_path / "a" / "circle").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "link.png").symlink_to(tmp_path / "b.PNG")
    assert sorted(found(tmp_path)) == sorted(str(path) for _, path in find_images_of_infer([tmp_path]))
    assert len(found(tmp_path)) == 5
    assert found(tmp_path / "a" / "d.txt") == [str(tmp_path / "a" / "d.txt")]
    assert [*find_images([Place.of(f"file://{tmp_path}/h.png")])] == [*find_images([Place.of(f"{tmp_path}/h.png")])]


def test_missing_empty_and_nested_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"missing' does not exist\.$"):
        found(tmp_path / "missing")
    with pytest.raises(FileNotFoundError, match=r"^There are no images in .*: they end in \.bmp, \.jpeg"):
        found(tmp_path)
    touch(tmp_path / "a" / "b" / "1.png", tmp_path / "ab" / "1.png")
    with pytest.raises(ValueError, match=r"a/b' lies in '.*a': give one of them\.$"):
        found(tmp_path / "a" / "b", tmp_path / "a")
    assert len(found(tmp_path / "a", tmp_path / "ab")) == 2
    with pytest.raises(ValueError, match=r"^'nothing://parts' cannot be reached \(.*\): give a path, or a URI such as"):
        Place.of("nothing://parts")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_parquet_cannot_hold_is_refused(tmp_path: Path) -> None:
    touch(tmp_path / os.fsdecode(b"\xff.png"))
    with pytest.raises(ValueError, match=r"^A name in the folder '.*' is not valid UTF-8: rename it, or use infer"):
        found(tmp_path)


def images_of(partitions: Partitions) -> dict[str, float | None]:
    rows = [row for _, table in partitions.read() for row in table.to_pylist()]
    return {row["image"]: row["score"] for row in rows}


def test_scores_are_kept_until_an_image_changes_or_can_be_read(tmp_path: Path) -> None:
    partitions = Partitions.in_folder(Place.of(str(tmp_path)), MADE_WITH)
    assert KnownImages(partitions).left_of([("a", "1", 0)]) == [("a", "1", 0)]
    partitions.write([Result("a", "1", 0.1, False), Result("b", "1", 0.2, True)])
    partitions.write([Result("c", "1", unreadable="it is empty"), Result("d", "1", 0.3)])
    partitions.write([Result("e", "1", 0.4)])
    now = [("a", "1", 0), ("b", "2", 0), ("c", "1", 0), ("d", "1", 0), ("e", "2", 0), ("f", "1", 0)]
    again = Partitions.in_folder(Place.of(str(tmp_path)), MADE_WITH)
    assert [name for name, _, _ in KnownImages(again).left_of(now)] == ["b", "c", "e", "f"]
    assert images_of(again) == {"a": 0.1, "d": 0.3}
    assert len(list((tmp_path / "scores").iterdir())) == 2


def test_the_same_images_are_written_to_the_same_file(tmp_path: Path) -> None:
    partitions = Partitions.in_folder(Place.of(str(tmp_path)), MADE_WITH)
    for _ in range(2):
        partitions.write([Result("a", "1", 0.1)])
    assert images_of(partitions) == {"a": 0.1}
    assert len(list((tmp_path / "scores").iterdir())) == 1


def test_another_model_and_files_that_are_no_scores_are_refused(tmp_path: Path) -> None:
    place = Place.of(str(tmp_path))
    partitions = Partitions.in_folder(place, MADE_WITH)
    partitions.write([Result("a", "1", 0.1)])
    with pytest.raises(
        ValueError, match=r"holds results that were made with another model: give another output folder"
    ):
        Partitions.in_folder(place, {**MADE_WITH, "model": "b"})
    (tmp_path / "made_with.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match=r"holds a 'made_with\.json' that is damaged: give another output folder\.$"):
        Partitions.in_folder(place, MADE_WITH)
    (scores,) = (tmp_path / "scores").iterdir()
    scores.write_bytes(scores.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"\.parquet' is damaged or not of scores: remove it, or give another output"):
        KnownImages(partitions)


def test_what_a_killed_worker_has_left_is_removed(tmp_path: Path) -> None:
    touch(tmp_path / "scores" / ".12-0.parquet")
    Partitions.in_folder(Place.of(str(tmp_path)), MADE_WITH)
    assert list((tmp_path / "scores").iterdir()) == []
