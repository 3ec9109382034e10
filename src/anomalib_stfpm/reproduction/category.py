"""Check the images of a category before hours of training."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from anomalib_stfpm.data.image_files import UnusableFileError, images_in, read_image, read_mask
from anomalib_stfpm.data.mvtec_layout import defect_folders, normal_folders


def categories_in(root: Path) -> list[str]:
    """List the category folders of a root in alphabetical order, without hidden ones.

    Raises:
        FileNotFoundError: If the root is missing or has none.
    """
    if not root.is_dir():
        msg = f"'{root}' is not a folder: give the one that holds a folder for each category, as MVTec AD does."
        raise FileNotFoundError(msg)
    names = sorted(path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not names:
        msg = f"'{root}' holds no category: give the folder that holds a folder for each, as MVTec AD does."
        raise FileNotFoundError(msg)
    return names


def named_categories(root: Path, given: Sequence[str] | None) -> list[str]:
    """Return the categories that are given, each once; all in the root if none are.

    Raises:
        FileNotFoundError: If the root is missing or has none.
        ValueError: If one is no name of a folder.
    """
    names = list(dict.fromkeys(given or categories_in(root)))
    for name in names:
        if not name or Path(name).name != name or name == "..":
            msg = f"categories must be names of folders in the root, not paths: got '{name}'."
            raise ValueError(msg)
    return names


def problem(folder: Path, *, has_test: bool = True) -> str | None:
    """Describe what is missing or damaged in a category in MVTec AD's layout, ``None`` if nothing is.

    ``ground_truth`` may be missing as a whole, and the test images if there is no test.
    """
    if not folder.is_dir():
        return f"there is no folder '{folder}'"
    for part in ("train", "test") if has_test else ("train",):
        good = next(iter(normal_folders(folder / part)), folder / part / "good")
        if not images_in(good):
            return f"'{good}' holds no images to {part} with"
    return (has_test and _problem_of_defects(folder)) or _first_damage(folder, has_test=has_test)


def _problem_of_defects(folder: Path) -> str | None:
    defects = [path.name for path in defect_folders(folder / "test")]
    if not any(images_in(folder / "test" / defect) for defect in defects):
        return f"'{folder / 'test'}' holds no images of defects"
    if (folder / "ground_truth").is_dir():
        for defect in defects:
            images, masks = (len(images_in(folder / part / defect)) for part in ("test", "ground_truth"))
            if masks != images:
                return f"'{folder / 'ground_truth' / defect}' holds {masks} masks for {images} images"
    return None


def _first_damage(folder: Path, *, has_test: bool) -> str | None:
    damages = (
        _damage(path, read_mask if part == "ground_truth" else read_image)
        for part in (("train", "test", "ground_truth") if has_test else ("train",))
        for path in images_in(folder / part)
    )
    return next((damage for damage in damages if damage), None)


def _damage(path: Path, read: Callable[[Path], Any]) -> str | None:
    try:
        read(path)
    except UnusableFileError as error:
        return str(error).removesuffix(".")
    return None
