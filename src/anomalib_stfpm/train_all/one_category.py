"""Train, test and export the model of one category."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from anomalib.data import AnomalibDataModule, Folder
from anomalib.data.utils import TestSplitMode, ValSplitMode
from lightning.pytorch import seed_everything

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.data.image_files import images_in
from anomalib_stfpm.data.mvtec_layout import defect_folders, normal_folders
from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.reproduction.category import problem
from anomalib_stfpm.reproduction.protocol import Protocol
from anomalib_stfpm.reproduction.run import STUDENT_CHECKPOINT, configuration, finish, quiet, train_and_test
from anomalib_stfpm.results import environment
from anomalib_stfpm_deploy.image import SUFFIXES


def run(
    make_model: Callable[[], Stfpm],
    protocol: Protocol,
    root: Path,
    category: str,
    seed: int,
    compression_type: str | None,
    folder: Path,
) -> dict[str, Any]:
    """Train, test and export a category, resuming an interrupted training.

    Only held-out normal images choose the student and set the thresholds. Without both good and defective test images,
    nothing is tested.

    Returns:
        The result, as written to ``result.json`` in the run's folder.

    Raises:
        ValueError: If images are missing or damaged.
    """
    has_test = _has_test(root / category)
    if found := problem(root / category, has_test=has_test):
        msg = f"{found}."
        raise ValueError(msg)
    with quiet():
        seed_everything(seed, workers=True)
        datamodule = _datamodule(root, category, protocol, seed, has_test=has_test)
        model = make_model()
        measured = train_and_test(model, datamodule, protocol, folder, lambda _: None, has_test=has_test)
        processor: Any = model.post_processor
        model.cpu().eval()
        exported = model.to_openvino(folder, compression_type=compression_type, datamodule=datamodule)
    result = {
        "category": category,
        "seed": seed,
        "images": len(images_in(root / category / "train")),
        **measured,
        "image_threshold": float(processor.image_threshold),
        "pixel_threshold": float(processor.pixel_threshold),
        "checkpoint": f"{category}/{STUDENT_CHECKPOINT}",
        "exported": f"{category}/{exported.relative_to(folder).as_posix()}",
        "configuration": configuration(model, protocol),
        "environment": environment.describe(),
    }
    finish(folder, result)
    return result


def _has_test(folder: Path) -> bool:
    good = any(images_in(part) for part in normal_folders(folder / "test"))
    return good and any(images_in(part) for part in defect_folders(folder / "test"))


def _datamodule(root: Path, category: str, protocol: Protocol, seed: int, *, has_test: bool) -> AnomalibDataModule:
    options: dict[str, Any] = {
        "extensions": tuple(SUFFIXES),
        "train_batch_size": protocol.train_batch_size,
        "eval_batch_size": protocol.eval_batch_size,
        "num_workers": protocol.num_workers,
        "val_split_mode": ValSplitMode.FROM_TRAIN,
        "val_split_ratio": protocol.val_split_ratio,
        "seed": seed,
    }
    if has_test:
        return MVTecLayout(root=root, category=category, **options)
    normal = [f"train/{path.name}" for path in normal_folders(root / category / "train")]
    return Folder(category, normal, root / category, test_split_mode=TestSplitMode.NONE, **options)
