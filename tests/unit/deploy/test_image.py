"""Images are read and resized as in training, and damaged ones are rejected."""

import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.v2 import Resize

from anomalib_stfpm_deploy.image import SUFFIXES, UnreadableImageError, read_image, resize_antialiased

COLOURS = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((80, 60))
DEEP = np.asarray(COLOURS.convert("L")).astype(np.uint16) * 200
TURNED = Image.Exif()
TURNED[0x0112] = 6


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:  # noqa: ANN401
    data = io.BytesIO()
    image.save(data, form, **options)
    return data.getvalue()


def with_alpha(mode: str) -> Image.Image:
    image = COLOURS.convert(mode)
    image.putalpha(COLOURS.convert("L"))
    return image


IMAGES = {
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


@pytest.mark.parametrize("kind", [kind for kind in IMAGES if "16 bits" not in kind])
def test_an_image_of_8_bits_has_pillows_values_turned_as_its_tag_says(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "größe 10 µm"  # whatever its name
    path.write_bytes(IMAGES[kind])
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    assert np.array_equal(read_image(path), expected)


FLOAT = (np.arange(12, dtype=np.float32) / 11).reshape(3, 4)
DEPTHS: dict[str, tuple[bytes, Any]] = {
    "16 bits of grey": (IMAGES["16 bits of grey"], np.dstack([DEEP] * 3) / 65535),
    "16 bits of grey in a TIFF": (IMAGES["16 bits of grey in a TIFF"], np.dstack([DEEP] * 3) / 65535),
    "16 bits a colour": (IMAGES["16 bits a colour"], np.dstack([DEEP // 3, DEEP // 2, DEEP]) / 65535),
    "12 bits in 16": (encoded(Image.fromarray(DEEP // 16), "PNG"), np.dstack([DEEP // 16] * 3) / 65535),
    "one value": (
        encoded(Image.fromarray(np.full((64, 64), 5000, np.uint16)), "PNG"),
        np.full((64, 64, 3), 5000 / 65535),
    ),
    "floating point": (encoded(Image.fromarray(FLOAT), "TIFF"), np.dstack([FLOAT] * 3)),
    "portable grey of 12 bits": (b"P5 # a comment\n2 1\n4095\n\x08\x00\x0f\xff", [[[2048 / 4095] * 3, [1] * 3]]),
    "portable grey": (encoded(COLOURS.convert("L"), "PPM"), np.dstack([np.asarray(COLOURS.convert("L"))] * 3)),
}


@pytest.mark.parametrize("kind", DEPTHS)
def test_other_depths_are_scaled_by_their_whole_range(kind: str, tmp_path: Path) -> None:
    data, expected = DEPTHS[kind]
    (tmp_path / "image").write_bytes(data)
    np.testing.assert_allclose(read_image(tmp_path / "image"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.full((8, 8), 2.5, np.float32), "must be from 0 to 1, without NaN: they are from 2.5 to 2.5"),
        (np.full((8, 8), -0.5, np.float32), "must be from 0 to 1"),
        (np.full((8, 8), np.nan, np.float32), "they are from nan to nan"),
        (np.full((8, 8), np.inf, np.float32), "must be from 0 to 1"),
        (np.full((8, 8), 5000, np.int32), "its values are of type int32, whose range is not known"),
    ],
)
def test_values_without_a_known_range_are_rejected(values: Any, reason: str, tmp_path: Path) -> None:  # noqa: ANN401
    Image.fromarray(values).save(tmp_path / "image.tif")
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(tmp_path / "image.tif")


def test_the_suffixes_are_those_of_training() -> None:
    assert set(IMG_EXTENSIONS) == SUFFIXES


def test_cmyk_images_differ_by_rounding_only(tmp_path: Path) -> None:
    path = tmp_path / "cmyk.jpg"
    path.write_bytes(encoded(COLOURS.convert("CMYK"), "JPEG"))
    expected = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - expected).max() <= 1


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_image_is_rejected(kind: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / "cut"
    path.write_bytes(IMAGES[kind][: int(share * len(IMAGES[kind]))])
    with pytest.raises(UnreadableImageError):
        read_image(path)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"no image", "it is not an image, or not a whole one"),
        (IMAGES["turned JPEG"][:700], "it is cut off"),
        (encoded(with_alpha("RGBA"), "TIFF"), "it is a TIFF with transparency, .*: save it as PNG"),
    ],
)
def test_the_error_says_why_an_image_is_unreadable(data: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError, match=reason):
        read_image(path)


def test_a_missing_file_and_a_folder_are_unreadable(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(UnreadableImageError, match="it cannot be read"):
            read_image(path)


@pytest.mark.parametrize("size", [(64, 96), (200, 150), (97, 331), (3, 5), (1024, 64), (64, 700)])
def test_resizing_equals_torchvisions_resize(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    images = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255
    expected = Resize((64, 96), antialias=True)(images)
    actual = resize_antialiased(image, (64, 96))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)  # torch computes the weights in 32 bits
    assert actual.flags["C_CONTIGUOUS"]
