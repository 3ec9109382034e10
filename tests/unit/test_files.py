"""A file is replaced as a whole or left as it was."""

import os
import stat
from pathlib import Path

import pytest

from anomalib_stfpm_deploy import files


def test_a_file_appears_with_all_of_its_text_and_ordinary_rights(tmp_path: Path) -> None:
    path, ordinary = tmp_path / "new" / "results.md", tmp_path / "ordinary"
    files.write_text(path, "ä table\n")
    ordinary.touch()
    assert path.read_text(encoding="utf-8") == "ä table\n"
    assert path.stat().st_mode == ordinary.stat().st_mode
    assert [file.name for file in path.parent.iterdir()] == ["results.md"]


def test_an_error_while_writing_leaves_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    files.write_text(path, "before")

    def fail() -> None:
        with files.replacing(path) as temporary:
            temporary.write_text("half of it")
            message = "disk full"
            raise OSError(message)

    with pytest.raises(OSError, match=r"results\.md' cannot be written \(disk full\)"):
        fail()
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"results\.md' cannot be written"):
        files.write_text(tmp_path / "file" / "results.md", "text")


def test_an_error_of_another_kind_is_left_as_it_is(tmp_path: Path) -> None:
    def fail() -> None:
        with files.replacing(tmp_path / "results.md"):
            message = "not a matter of files"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="not a matter of files"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on POSIX only")
def test_what_outlasts_a_power_cut_is_the_file_and_then_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, flushed = tmp_path / "results.txt", []
    flush = os.fsync

    def record(opened: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(opened).st_mode), path.exists()))
        flush(opened)

    monkeypatch.setattr(os, "fsync", record)
    files.write_bytes(path, b"all of it", durable=False)
    assert flushed == []
    path.unlink()
    files.write_bytes(path, b"all of it")
    assert flushed == [(False, False), (True, True)]
