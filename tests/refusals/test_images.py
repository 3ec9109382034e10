"""Images that are damaged, too large or endless, and names of any kind."""

import csv
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.reproduction import category
from anomalib_stfpm_deploy.infer.found import find_images
from tests.conftest import write_image, write_mask
from tests.integration.conftest import quiet_engine, tiny_model

from .harness import Done, Run, refused, untouched

pytestmark = pytest.mark.integration

Make = Callable[[Path], object]


def encoded(kind: str, mode: str = "RGB") -> bytes:
    """An image in a format of Pillow's."""
    import io

    file = io.BytesIO()
    Image.fromarray(np.arange(48 * 48 * 3, dtype=np.uint8).reshape(48, 48, 3)).convert(mode).save(file, kind)
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a kilobyte that says it is of this size."""
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


UNREADABLE: dict[str, tuple[Make, str]] = {
    "empty.png": (Path.touch, "it is empty"),
    "text.png": (lambda path: path.write_text("not an image"), "it is not an image, or not a whole one"),
    "noise.jpg": (lambda path: path.write_bytes(bytes(range(256)) * 9), "it is not an image, or not a whole one"),
    "half.png": (lambda path: path.write_bytes(encoded("png")[:100]), "it is not an image, or not a whole one"),
    "half.jpg": (lambda path: path.write_bytes(encoded("jpeg")[:-300]), "it is cut off"),
    "half.bmp": (lambda path: path.write_bytes(encoded("bmp")[:500]), "it is not an image, or not a whole one"),
    "half.webp": (lambda path: path.write_bytes(encoded("webp")[:100]), "it is not an image, or not a whole one"),
    "half.tiff": (lambda path: path.write_bytes(encoded("tiff")[:500]), "it is not an image, or not a whole one"),
    "signature.png": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "it is not an image, or not a whole one"),
    "signature.jpg": (lambda path: path.write_bytes(b"\xff\xd8\xff"), "it is not an image, or not a whole one"),
    "archive.png": (
        lambda path: path.write_bytes(b"PK\x05\x06" + bytes(18)),
        "it is not an image, or not a whole one",
    ),
    "drawing.png": (lambda path: path.write_text("<svg/>"), "it is not an image, or not a whole one"),
    "flat.png": (lambda path: path.write_bytes(bomb(0, 0)), "it "),
    "billions.png": (lambda path: path.write_bytes(bomb(60_000, 60_000)), "it is too large"),
    "terabytes.png": (lambda path: path.write_bytes(bomb(2**31 - 1, 2**31 - 1)), "it is "),
    "transparent.tiff": (lambda path: path.write_bytes(encoded("tiff", "RGBA")), "it is a TIFF with transparency"),
    "missing.png": (lambda path: path.symlink_to("nowhere.png"), "it cannot be read (No such file or directory)"),
    "loop.png": (lambda path: path.symlink_to(path.name), "it cannot be read (Too many levels of symbolic links)"),
    "endless.png": (lambda path: path.symlink_to("/dev/zero"), "it cannot be read (it is not a file)"),
    "pipe.png": (lambda path: os.mkfifo(path), "it cannot be read (it is not a file)"),
    f"{'n' * 248}.png": (
        lambda path: path.write_bytes(encoded("png")),
        "its name is too long for a heat map: rename it",
    ),
}


def infer(run: Run, model: Path, given: Path, output: Path) -> Done:
    return run("infer", "--model", model, "--input", given, "--output", output, "--streams", 1)


def rows(output: Path) -> dict[str, dict[str, str]]:
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        return {row["picture"]: row for row in csv.DictReader(file)}


@pytest.mark.skipif(os.name != "posix", reason="other systems have other files")
@pytest.mark.parametrize("name", UNREADABLE, ids=lambda name: name[:20])
def test_infer_skips_an_unreadable_file_with_the_reason(name: str, exported: Path, tmp_path: Path, run: Run) -> None:
    make, reason = UNREADABLE[name]
    given = tmp_path / "given"
    write_image(given / "good.png", seed=0)
    make(given / name)
    with untouched(given):
        done = infer(run, exported, given, tmp_path / "output")
    assert done.code == 1, done.output
    assert f"'{name}' was left out: {reason}" in done.output
    assert "1 images scored, 1 unreadable" in done.output
    found = rows(tmp_path / "output")
    assert found[name]["unreadable"].startswith(reason)
    assert found["good.png"]["score"] != ""


NAMES: dict[str, str] = {
    "not ASCII": "Prüfling 部品 №7 🔩.png",
    "quotes and commas": "a,\"b\",'c'.png",
    "a new line": "first\nsecond.png",
    "a tab and a return": "a\tb\rc.png",
    "markup": "<script>alert(1)<script>.png",
    "a formula": "=1+1.png",
    "a long name": f"{'n' * 240}.png",
    "a deep folder": "/".join(["deeper" * 30] * 8) + "/1.png",
    "dots": "a...png.png",
    "a percent sign": "%s{0}%(x)d.png",
    "no UTF-8": os.fsdecode(b"caf\xe9.png"),
    "a backslash": "a\\..\\..\\up.png",
    "upper case": "IMAGE.PNG",
}


@pytest.mark.skipif(os.name != "posix", reason="other systems refuse some of these names themselves")
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_an_image_of_any_name_is_scored_and_its_files_stay_in_the_output(
    name: str, exported: Path, tmp_path: Path, run: Run
) -> None:
    given, output = tmp_path / "given", tmp_path / "output"
    write_image(tmp_path / "image.png", seed=0)
    (given / name).parent.mkdir(parents=True)
    shutil.copy(tmp_path / "image.png", given / name)
    before = set(tmp_path.rglob("*"))
    with untouched(given):
        done = infer(run, exported, given, output)
    assert done.code == 0, done.output
    assert all(path.is_relative_to(output) for path in set(tmp_path.rglob("*")) - before)
    (row,) = rows(output).values()
    assert (output / row["heat_map"].removeprefix("'")).is_file()
    assert (output / row["overlay"].removeprefix("'")).is_file()


def test_a_parent_folder_in_the_input_path_does_not_write_outside_the_output(
    exported: Path, tmp_path: Path, run: Run
) -> None:
    write_image(tmp_path / "given" / "1.png", seed=0)
    (tmp_path / "given" / "deep").mkdir()
    done = infer(run, exported, tmp_path / "given" / "deep" / ".." / ".." / "given", tmp_path / "output")
    assert done.code == 0, done.output
    assert list(rows(tmp_path / "output")) == ["1.png"]
    assert {path.name for path in tmp_path.iterdir()} == {"given", "output"}


@pytest.mark.skipif(os.name != "posix", reason="needs a link")
def test_folders_linked_in_a_circle_are_read_once(exported: Path, tmp_path: Path, run: Run) -> None:
    write_image(tmp_path / "given" / "1.png", seed=0)
    (tmp_path / "given" / "again").symlink_to(tmp_path / "given")
    assert infer(run, exported, tmp_path / "given", tmp_path / "output").code == 0
    assert list(rows(tmp_path / "output")) == ["1.png"]


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path / "given" / "1.png", seed=0)
    locked = tmp_path / "given" / "locked"
    locked.mkdir()
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # noqa: ANN401  # a user without permission, which root is not
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with refused(f"The folder '{locked}' cannot be read (Permission denied): its images would be left out."):
        list(find_images([tmp_path / "given"]))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say what memory a process has used")
def test_a_small_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    # 30,000 x 30,000 pixels are fewer than what OpenCV decodes by itself, and 2.7 GB.
    (tmp_path / "bomb.png").write_bytes(bomb(30_000, 30_000))
    code = (
        "from anomalib_stfpm_deploy.cli import configure_libraries\n"
        "configure_libraries()\n"
        "from anomalib_stfpm_deploy.machine import peak_bytes\n"
        "from anomalib_stfpm_deploy.image import UnreadableImageError, read_image\n"
        "try: read_image('bomb.png')\n"
        "except UnreadableImageError as error: print(error)\n"
        "print(peak_bytes())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    reason, peak = done.stdout.splitlines()
    assert reason.startswith("it is too large")
    assert int(peak) < 1e9


DAMAGED: dict[str, tuple[Make, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "it is empty"),
    "text": (lambda path: path.write_text("not an image"), "it is not an image, or not a whole one"),
    "half": (lambda path: path.write_bytes(path.read_bytes()[:3000]), "it is not an image, or not a whole one"),
    "huge": (
        lambda path: path.write_bytes(bomb(60_000, 60_000)),
        "it is too large: OPENCV_IO_MAX_IMAGE_PIXELS raises",
    ),
    "integers of 32 bits": (
        lambda path: path.write_bytes(encoded("tiff", "I")),
        "its values are of type int32, whose range is not known",
    ),
}


@pytest.fixture
def root(images: Path, tmp_path: Path) -> Path:
    shutil.copytree(images, tmp_path / "root")
    return tmp_path / "root"


def fit(root: Path, teacher_file: Path, folder: Path, **arguments: Any) -> Any:  # noqa: ANN401
    engine = quiet_engine(folder / "results", logger=False)
    engine.fit(tiny_model(teacher_file), datamodule=MVTecLayout(root, "part", num_workers=0, **arguments))
    return engine


@pytest.mark.parametrize(("damage", "sentence"), DAMAGED.values(), ids=DAMAGED)
def test_training_stops_at_an_unreadable_image_and_names_it(
    damage: Make, sentence: str, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    damage(root / "part" / "train" / "good" / "1.png")
    with untouched(root), refused(f"'{root}/part/train/good/1.png' cannot be used: {sentence}"):
        fit(root, teacher_file, tmp_path)


@pytest.mark.parametrize(("damage", "sentence"), DAMAGED.values(), ids=DAMAGED)
def test_a_reproduction_finds_an_unreadable_image_before_training(damage: Make, sentence: str, root: Path) -> None:
    damage(root / "part" / "train" / "good" / "1.png")
    with untouched(root):
        problem = category.problem(root / "part")
    assert problem is not None
    assert problem.startswith(f"'{root}/part/train/good/1.png' cannot be used: {sentence}")


FOLDERS: dict[str, tuple[Make, str]] = {
    "no folder": (shutil.rmtree, "is not in MVTec AD's layout: it has no folder 'train/good'."),
    "no training": (lambda part: shutil.rmtree(part / "train"), "it has no folder 'train/good'."),
    "no test": (lambda part: shutil.rmtree(part / "test"), "it has no folder 'test'."),
    "a file": (lambda part: replaced(part).touch(), "it has no folder 'train/good'."),
    "a loop": (lambda part: replaced(part).symlink_to(part), "it has no folder 'train/good'."),
    "no images": (lambda part: emptied(part / "train" / "good"), "'{part}/train/good' holds no images"),
    "other files": (lambda part: emptied(part / "train" / "good").joinpath("a.txt").touch(), "holds no images"),
    "no defects": (lambda part: emptied(part / "test" / "bad"), "'{part}/test/bad' holds no images"),
    "no good ones": (lambda part: emptied(part / "test" / "good"), "'{part}/test/good' holds no images"),
    "nothing to test": (lambda part: emptied(part / "test"), "'{part}/test' holds no folder of images to test"),
    "no masks": (
        lambda part: emptied(part / "ground_truth" / "bad"),
        "'{part}/ground_truth/bad' holds 0 masks for 2 ima",
    ),
    "too few masks": (
        lambda part: write_mask(part / "ground_truth/bad/0.png"),
        "'{part}/ground_truth/bad' holds 1 masks",
    ),
}


def replaced(folder: Path) -> Path:
    shutil.rmtree(folder)
    return folder


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(("damage", "sentence"), FOLDERS.values(), ids=FOLDERS)
def test_an_incomplete_category_is_rejected(damage: Make, sentence: str, root: Path) -> None:
    part = root / "part"
    damage(part)
    with refused(sentence.format(part=part), root):
        MVTecLayout(root, "part").setup()


def test_anomalib_takes_no_folder_whose_name_is_not_ascii(root: Path) -> None:
    (root / "part").rename(root / "Prüfling")
    with untouched(root), pytest.raises(ValueError, match="Path contains non-printable characters"):
        MVTecLayout(root, "Prüfling").setup()


WORKS: dict[str, Make] = {
    "one image to train with": lambda part: (part / "train" / "good" / "1.png").unlink(),
    "no test image without a defect": lambda part: shutil.rmtree(part / "test" / "good"),
    "no test image with a defect": lambda part: shutil.rmtree(part / "test" / "bad"),
    "names that are not ASCII": lambda part: (part / "test/bad/0.png").rename(part / "test/bad/Kratzer 傷.png"),
    "grey images": lambda part: Image.new("L", (64, 64)).save(part / "train" / "good" / "0.png"),
    "an image with transparency": lambda part: Image.new("RGBA", (64, 64)).save(part / "train" / "good" / "0.png"),
    "images of several sizes": lambda part: Image.new("RGB", (90, 31)).save(part / "train" / "good" / "0.png"),
    "an image of one pixel": lambda part: Image.new("RGB", (1, 1)).save(part / "train" / "good" / "0.png"),
    "hidden files": lambda part: (part / "train" / "good" / ".DS_Store").touch(),
}


@pytest.mark.parametrize("change", WORKS.values(), ids=WORKS)
def test_unusual_images_can_be_trained_and_tested_with(
    change: Make, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    change(root / "part")
    with untouched(root):
        engine = fit(root, teacher_file, tmp_path)
        (metrics,) = engine.test(engine.model, datamodule=MVTecLayout(root, "part", num_workers=0), verbose=False)
    assert metrics
