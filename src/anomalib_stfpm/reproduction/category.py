"""Check the images of a category before hours of training."""

from pathlib import Path

from anomalib_stfpm.data.image_files import UnusableFileError, read_image, read_mask
from anomalib_stfpm_deploy.image import SUFFIXES, is_leftover


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


def problem(folder: Path) -> str | None:
    """Describe what is missing or damaged in a category in MVTec AD's layout, ``None`` if nothing is.

    ``ground_truth`` may be missing as a whole.
    """
    if not folder.is_dir():
        return f"there is no folder '{folder}'"
    for part, purpose in {"train/good": "to train with", "test/good": "to test with"}.items():
        if not _images(folder / part):
            return f"'{folder / part}' holds no images {purpose}"
    defects = sorted(
        path.name
        for path in (folder / "test").iterdir()
        if path.is_dir() and path.name != "good" and not is_leftover(path)
    )
    if not any(_images(folder / "test" / defect) for defect in defects):
        return f"'{folder / 'test'}' holds no images of defects"
    if (folder / "ground_truth").is_dir():
        for defect in defects:
            images, masks = (len(_images(folder / part / defect)) for part in ("test", "ground_truth"))
            if masks != images:
                return f"'{folder / 'ground_truth' / defect}' holds {masks} masks for {images} images"
    files = sorted(path for part in ("train", "test", "ground_truth") for path in (folder / part).rglob("*"))
    damages = (_damage(path) for path in files if _is_image(path))
    return next((damage for damage in damages if damage), None)


def _images(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else []
    return [path for path in files if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not is_leftover(path)


def _damage(path: Path) -> str | None:
    try:
        read_mask(path) if "ground_truth" in path.parts else read_image(path)
    except UnusableFileError as error:
        return str(error).removesuffix(".")
    return None
