"""Pictures are read as Pillow reads them for training, and what is not whole is refused."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from anomalib_stfpm_deploy.picture import UnreadablePictureError, read_picture

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60))
DEEP = np.asarray(COLOURS.convert("L")).astype(np.uint16) * 200
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(picture: Image.Image, form: str, **options: Any) -> bytes:  # noqa: ANN401
    data = io.BytesIO()
    picture.save(data, form, **options)
    return data.getvalue()


def with_alpha(mode: str) -> Image.Image:
    picture = COLOURS.convert(mode)
    picture.putalpha(COLOURS.convert("L"))
    return picture


PICTURES = {
    "colours": encoded(COLOURS, "PNG"),
    "grey": encoded(COLOURS.convert("L"), "PNG"),
    "black and white": encoded(COLOURS.convert("1"), "PNG"),
    "transparent": encoded(with_alpha("RGBA"), "PNG"),
    "transparent grey": encoded(with_alpha("LA"), "PNG"),
    "palette": encoded(COLOURS.quantize(32), "PNG"),
    "transparent palette": encoded(COLOURS.quantize(32), "PNG", transparency=3),
    "16 bits of grey": encoded(Image.fromarray(DEEP), "PNG"),
    "16 bits of grey in a TIFF": encoded(Image.fromarray(DEEP), "TIFF"),
    "16 bits a colour": cv2.imencode(".png", np.dstack([DEEP, DEEP // 2, DEEP // 3]))[1].tobytes(),
    "turned JPEG": encoded(COLOURS, "JPEG", exif=TURNED),
    "turned PNG": encoded(COLOURS, "PNG", exif=TURNED),
    "grey JPEG": encoded(COLOURS.convert("L"), "JPEG"),
    "progressive JPEG": encoded(COLOURS, "JPEG", progressive=True),
    "JPEG of all colours": encoded(COLOURS, "JPEG", subsampling=0),
    "bitmap": encoded(COLOURS, "BMP"),
    "bitmap with a palette": encoded(COLOURS.quantize(32), "BMP"),
    "TIFF": encoded(COLOURS, "TIFF"),
    "WebP": encoded(COLOURS, "WEBP"),
}


@pytest.mark.parametrize("kind", PICTURES)
def test_a_picture_is_read_as_training_reads_it(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "größe 10 µm"  # whatever its name
    path.write_bytes(PICTURES[kind])
    with Image.open(path) as picture:
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(read_picture(path), expected)


def test_inks_differ_by_a_step_of_rounding(tmp_path: Path) -> None:
    path = tmp_path / "inks.jpg"
    path.write_bytes(encoded(COLOURS.convert("CMYK"), "JPEG"))
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_picture(path) - expected).max() <= 1


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_cut_off_picture_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(PICTURES[kind][: int(share * len(PICTURES[kind]))])
    with pytest.raises(UnreadablePictureError):
        read_picture(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"no picture", "it is not a picture, or not a whole one"),
        (PICTURES["turned JPEG"][:700], "it is cut off"),
        (encoded(with_alpha("RGBA"), "TIFF"), "it is a TIFF with transparency, .*: save it as PNG"),
    ],
)
def test_the_reason_is_said(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnreadablePictureError, match=reason):
        read_picture(path)


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(UnreadablePictureError, match="it cannot be read"):
            read_picture(path)
