"""Your own images in MVTec AD's layout, whatever their format, with or without masks."""

from pathlib import Path
from typing import Any

from anomalib.data import Folder
from anomalib.data.utils import ValSplitMode

from anomalib_stfpm import argument_checks
from anomalib_stfpm.data.image_files import images_in
from anomalib_stfpm_deploy.image import SUFFIXES, is_leftover


class MVTecLayout(Folder):
    """A category in MVTec AD's layout, of images in any format, with or without masks.

    anomalib's ``MVTecAD`` reads ``.png`` images only and insists on masks; its ``Folder`` wants each folder named.
    This is ``Folder`` with the folders filled in: ``train/good``, ``test/good``, every other folder in ``test`` and, if
    there is one, ``ground_truth`` with a mask for each defective image. As with ``MVTecAD``, the test images
    validate too, unless ``val_split_mode`` says otherwise.

    Args:
        root: Folder that holds the category's folder.
        category: Name of the category's folder.
        num_workers: Number of worker processes.
        val_split_mode: Where validation images come from, see ``Folder``.
        kwargs: Further arguments of anomalib's ``Folder``.

    Raises:
        FileNotFoundError: If a folder that the layout needs is missing or holds no images.
        ValueError: If ``root`` or ``category`` is no path, or some defective images have no mask.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from anomalib_stfpm.data import MVTecLayout
        >>> from anomalib_stfpm.data.texture_demo import write_category
        >>> with TemporaryDirectory() as folder:
        ...     images = write_category(Path(folder), "brick")
        ...     datamodule = MVTecLayout(root=folder, category="brick")
        ...     datamodule.setup()
        >>> len(datamodule.train_data), len(datamodule.test_data)
        (60, 52)
    """

    def __init__(
        self,
        root: Path | str,
        category: str,
        num_workers: int = 8,
        val_split_mode: ValSplitMode | str = ValSplitMode.SAME_AS_TEST,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        argument_checks.kind("root", root, str | Path, "the path of a folder")
        argument_checks.kind("category", category, str, "the name of a folder in root")
        folder = Path(root) / category
        normal = normal_folders(folder / "train")
        for needed, found in {"train/good": normal, "test": (folder / "test").is_dir()}.items():
            if not found:
                msg = f"'{folder}' is not in MVTec AD's layout: it has no folder '{needed}'."
                raise FileNotFoundError(msg)
        normal_test = normal_folders(folder / "test")
        defects = [path.name for path in defect_folders(folder / "test")]
        has_masks = (folder / "ground_truth").is_dir()
        extensions = kwargs.get("extensions") or SUFFIXES
        images = {
            part: images_in(part, extensions) for part in [*normal, *normal_test, *defect_folders(folder / "test")]
        }
        for part, found in images.items():
            if not found:
                msg = f"'{part}' holds no images: their names end in {', '.join(sorted(extensions))}."
                raise FileNotFoundError(msg)
        if not normal_test and not defects:
            msg = f"'{folder / 'test'}' holds no folder of images to test with, such as 'good'."
            raise FileNotFoundError(msg)
        for defect in defects if has_masks else []:
            number = len(images[folder / "test" / defect])
            masks = len(images_in(folder / "ground_truth" / defect, extensions))
            if masks != number:
                msg = (
                    f"'{folder / 'ground_truth' / defect}' holds {masks} masks for {number} images: give "
                    "every image of a defect its mask, or leave the folder 'ground_truth' out."
                )
                raise ValueError(msg)
        super().__init__(
            name=type(self).__name__,
            root=folder,
            normal_dir=[f"train/{path.name}" for path in normal],
            abnormal_dir=[f"test/{defect}" for defect in defects],
            normal_test_dir=[f"test/{path.name}" for path in normal_test] or None,
            mask_dir=[f"ground_truth/{defect}" for defect in defects] if has_masks else None,
            num_workers=num_workers,
            val_split_mode=val_split_mode,
            **kwargs,
        )
        self.category = category


def normal_folders(folder: Path) -> list[Path]:
    """List the folders called ``good``, in small or capital letters."""
    return [path for path in _folders(folder) if path.name.lower() == "good"]


def defect_folders(folder: Path) -> list[Path]:
    """List the other folders, in the order of their names."""
    return [path for path in _folders(folder) if path.name.lower() != "good"]


def _folders(folder: Path) -> list[Path]:
    inside = folder.iterdir() if folder.is_dir() else []
    return sorted(path for path in inside if path.is_dir() and not is_leftover(Path(path.name)))
