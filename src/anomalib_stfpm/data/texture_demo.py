"""A demo category, made on the spot: photographs of textures with synthetic defects."""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from anomalib.data import MVTecAD
from PIL import Image
from platformdirs import user_cache_path
from skimage import data as photographs
from skimage.util import img_as_float, img_as_ubyte

from anomalib_stfpm import argument_checks
from anomalib_stfpm.data.defects import DEFECTS, GreyImage
from anomalib_stfpm_deploy import files

CATEGORIES = ("brick", "grass", "gravel")

_CROP_SIZE = 160
_TRAIN_COLUMNS = 320  # the rest of a photograph is for test images: no training pixel is tested on
_SEED = 2021
_VERSION = 1  # of the images: whoever changes how they are drawn counts it up
_TRAIN_GOOD, _TEST_GOOD, _TEST_OF_EACH_DEFECT = 60, 20, 8
_README = """\
Demo category '{category}' of anomalib-stfpm, version {version}.

The images are crops of the photograph 'skimage.data.{category}' that scikit-image carries, of which it says where it
comes from and that it is under the Creative Commons CC0 licence (https://creativecommons.org/publicdomain/zero/1.0/).
Training and test images are from different parts of it. The defects are synthetic.
"""


class TextureDemo(MVTecAD):
    """Photographs of a texture, with synthetic defects and their masks, in MVTec AD's layout.

    The first use writes the category to ``root``, all of it or nothing; later uses read it. It has 60 good images to
    train with, and to test 20 good ones and 8 of each kind of defect: blob, missing texture, scratch, stain. All are
    160 x 160 and drawn from a fixed seed. The photographs are those of scikit-image, under the CC0 licence.

    Args:
        root: Folder to hold the category. ``None`` takes a folder in the user's cache.
        category: ``"brick"``, ``"grass"`` or ``"gravel"``.
        num_workers: Number of worker processes. The images are too small for any to pay off.
        kwargs: Further arguments of anomalib's ``MVTecAD``.

    Raises:
        ValueError: If the category is unknown.

    Example:
        >>> from anomalib_stfpm.data import TextureDemo
        >>> datamodule = TextureDemo(category="brick")
    """

    def __init__(
        self,
        root: Path | str | None = None,
        category: str = "brick",
        num_workers: int = 0,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        argument_checks.kind("root", root, str | Path | None, "the path of a folder, or None for the user's cache")
        if category not in CATEGORIES:
            msg = f"TextureDemo has no category '{category}': choose from {', '.join(CATEGORIES)}."
            raise ValueError(msg)
        root = Path(root) if root is not None else user_cache_path("anomalib_stfpm") / f"texture_demo_{_VERSION}"
        super().__init__(root=root, category=category, num_workers=num_workers, **kwargs)
        self.root = root  # as given: anomalib looks for relative paths in its own datasets folder first

    def prepare_data(self) -> None:
        """Write the category to disk, unless it is there.

        Raises:
            ValueError: If a folder of that name is there that is not this demo category.
        """
        write_category(self.root, self.category)


def write_category(root: Path, category: str) -> Path:
    """Write a demo category in MVTec AD's layout, unless it is there. It appears whole or not at all.

    Raises:
        OSError: If it cannot be written.
        ValueError: If a folder of that name is there that is not this demo category.
    """
    folder = root / category
    if not folder.exists():
        with files.path_in_errors(folder):
            _write(folder, category)
    readme = folder / "readme.txt"
    if not readme.is_file() or readme.read_text(encoding="utf-8") != _readme(category):
        msg = f"'{folder}' is not the demo category of this version: choose another root, or move that folder away."
        raise ValueError(msg)
    return folder


def _write(folder: Path, category: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{category}-", dir=folder.parent))
    try:
        _draw(unfinished, category)
        unfinished.chmod(0o755)
        os.replace(unfinished, folder)
    except OSError:
        # Another process may have finished first; its category is as good as this one.
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _draw(folder: Path, category: str) -> None:
    photograph: GreyImage = img_as_float(getattr(photographs, category)())
    train_part, test_part = photograph[:, :_TRAIN_COLUMNS], photograph[:, _TRAIN_COLUMNS:]
    generator = np.random.default_rng([_SEED, CATEGORIES.index(category)])
    for index in range(_TRAIN_GOOD):
        _save(_crop(train_part, generator), folder / "train" / "good" / f"{index:03}.png")
    for index in range(_TEST_GOOD):
        _save(_crop(test_part, generator), folder / "test" / "good" / f"{index:03}.png")
    for kind, draw_defect in DEFECTS.items():
        for index in range(_TEST_OF_EACH_DEFECT):
            image, mask = draw_defect(_crop(test_part, generator), generator)
            _save(image, folder / "test" / kind / f"{index:03}.png")
            _save(mask.astype(float), folder / "ground_truth" / kind / f"{index:03}_mask.png")
    (folder / "readme.txt").write_text(_readme(category), encoding="utf-8")


def _readme(category: str) -> str:
    return _README.format(category=category, version=_VERSION)


def _crop(part: GreyImage, generator: np.random.Generator) -> GreyImage:
    row, column = (int(generator.integers(0, length - _CROP_SIZE + 1)) for length in part.shape)
    return part[row : row + _CROP_SIZE, column : column + _CROP_SIZE]


def _save(image: npt.NDArray[np.float64], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(img_as_ubyte(image)).save(path)
