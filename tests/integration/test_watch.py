"""``infer --watch`` as a process: files that are written slowly, lines of JSON, and a clean stop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anomalib_stfpm_deploy.image import read_image
from anomalib_stfpm_deploy.network import Network
from tests.conftest import write_image

from .conftest import HEARS_CONTROL_C

pytestmark = [pytest.mark.integration, pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")]


@contextmanager
def watching(model: Path, folder: Path, output: Path, stop: int) -> Iterator[Any]:
    """Start the command, and assert that the signal stops it without an error."""
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "infer", "--watch"]
    options = ["--model", str(model), "--input", str(folder), "--output", str(output)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **HEARS_CONTROL_C}
    with subprocess.Popen([*command, *options], **pipes) as process:
        assert "Watching" in process.stderr.readline()
        try:
            yield process
            process.send_signal(stop)
            rest, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, rest) == (0, "")
    assert said == "Stopped: the same command goes on with images that have arrived since.\n"


def line(process: Any) -> dict[str, Any]:  # noqa: ANN401
    record: dict[str, Any] = json.loads(process.stdout.readline())
    return record


def slowly(data: bytes, path: Path, pause: float) -> None:
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 4):
            file.write(data[start : start + len(data) // 4])
            file.flush()
            time.sleep(pause)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_slowly_written_files_are_scored_once_they_are_complete(stop: int, exported: Path, tmp_path: Path) -> None:
    for name in ("1.png", "2.jpg", "3.png"):
        write_image(tmp_path / "camera" / name, seed=len(name) + ord(name[0]), defect=name == "2.jpg")
    folder, output = tmp_path / "images", tmp_path / "output"
    folder.mkdir()
    network = Network(exported)
    expected = {
        path.name: network.predict(network.prepare(read_image(path))) for path in (tmp_path / "camera").iterdir()
    }
    with watching(exported, folder, output, stop) as process:
        for name, pause in (("1.png", 0.1), ("2.jpg", 0.6)):  # the second pauses for longer than files may not change
            slowly((tmp_path / "camera" / name).read_bytes(), folder / name, pause)
            found = line(process)
            assert found["picture"] == name
            assert found["score"] == pytest.approx(expected[name].score, rel=1e-5)
            assert found["is_anomalous"] == expected[name].is_anomalous
            assert found["unreadable"] is None
            assert (output / found["heat_map"]).is_file()
            assert (output / found["overlay"]).is_file()
    with watching(exported, folder, output, stop) as process:
        (folder / "деталь").mkdir()
        (tmp_path / "camera" / "3.png").rename(folder / "деталь" / "3.png")
        assert line(process)["picture"] == "деталь/3.png"


def test_it_ends_when_nobody_reads_its_lines(exported: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    write_image(folder / "1.png", 0)
    command = [sys.executable, "-m", "anomalib_stfpm_deploy", "infer", "--watch", "--no-pictures"]
    options = ["--model", str(exported), "--input", str(folder), "--output", str(tmp_path / "output")]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    assert process.returncode == 120
    assert said.endswith("error: Nobody reads the results any more: the program after the pipe has ended.\n")
