"""Whether a category's pictures are all there, before hours are spent on it."""

from pathlib import Path

from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS


def categories_in(root: Path) -> list[str]:
    """List the folders that may be categories.

    Args:
        root: Folder that holds them.

    Returns:
        Names in order, without hidden ones.

    Raises:
        FileNotFoundError: If the folder is missing or holds none.
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
    """Find out whether a category is complete and every picture of it can be read to its end.

    Args:
        folder: A category's folder in MVTec AD's layout. It may have no ``ground_truth`` at all.

    Returns:
        What is missing or damaged, ``None`` if nothing is.
    """
    if not folder.is_dir():
        return f"there is no folder '{folder}'"
    for part, purpose in {"train/good": "to train with", "test/good": "to test with"}.items():
        if not _pictures(folder / part):
            return f"'{folder / part}' holds no pictures {purpose}"
    defects = sorted(path.name for path in _folders(folder / "test") if path.name != "good")
    if not any(_pictures(folder / "test" / defect) for defect in defects):
        return f"'{folder / 'test'}' holds no pictures of defects"
    if (folder / "ground_truth").is_dir():
        for defect in defects:
            pictures, masks = (len(_pictures(folder / part / defect)) for part in ("test", "ground_truth"))
            if masks != pictures:
                return f"'{folder / 'ground_truth' / defect}' holds {masks} masks for {pictures} pictures"
    files = sorted(path for part in ("train", "test", "ground_truth") for path in (folder / part).rglob("*"))
    damages = (_damage(path) for path in files if path.suffix.lower() in IMG_EXTENSIONS)
    return next((damage for damage in damages if damage), None)


def _folders(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def _pictures(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else []
    return [path for path in files if path.suffix.lower() in IMG_EXTENSIONS]


def _damage(path: Path) -> str | None:
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return f"'{path}' is damaged ({error})"
    return None
