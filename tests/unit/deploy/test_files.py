"""A file is written whole or not at all, and one command at a time writes to a folder."""

import os
import stat
from pathlib import Path

import pytest

from anomalib_stfpm_deploy import files


def test_a_file_has_its_whole_text_and_default_permissions(tmp_path: Path) -> None:
    path, ordinary = tmp_path / "new" / "results.md", tmp_path / "ordinary"
    files.write_text(path, "ä table\n")
    ordinary.touch()
    assert path.read_text(encoding="utf-8") == "ä table\n"
    assert path.stat().st_mode == ordinary.stat().st_mode
    assert [file.name for file in path.parent.iterdir()] == ["results.md"]


def test_an_error_while_writing_keeps_the_previous_file(tmp_path: Path) -> None:
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


def test_the_error_names_a_path_whose_folder_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"results\.md' cannot be written"):
        files.write_text(tmp_path / "file" / "results.md", "text")


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    def fail() -> None:
        with files.replacing(tmp_path / "results.md"):
            message = "not about files"
            raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="not about files"):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="folders are flushed on POSIX only")
def test_a_durable_file_is_flushed_before_it_is_renamed_and_its_folder_after(
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


def test_a_folder_is_locked_once_and_removed_if_it_stays_empty(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "output"
    with files.lock_folder(folder):
        with pytest.raises(ValueError, match="Another command is at work in"), files.lock_folder(folder):
            pass
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with files.lock_folder(folder):
        (folder / "results.csv").touch()
    assert [path.name for path in folder.iterdir()] == ["results.csv"]
