"""Everything that relies on the internals of anomalib and Lightning. docs/anomalib.md lists it.

anomalib finds a model by its name among the subclasses of ``AnomalibModule``, the last one first. So the plugin's
``Stfpm`` answers to ``get_model("stfpm")`` as soon as it is defined, without any change.
"""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anomalib.data
import anomalib.data.utils
import anomalib.engine.engine
import anomalib.models
import lightning.pytorch as pl
import yaml
from anomalib.data import AnomalibDataModule
from anomalib.data.datasets.base.image import AnomalibDataset
from anomalib.data.utils.path import resolve_path
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from filelock import FileLock
from lightning.pytorch import seed_everything
from omegaconf import OmegaConf
from PIL import Image
from rich.logging import RichHandler

from anomalib_stfpm_deploy.quiet import hide, hide_known_messages

LATEST = "latest"
TILED_ENSEMBLE_MODELS = "anomalib.pipelines.tiled_ensemble.components.utils.helper_functions"
TILED_ENSEMBLE_STATISTICS = "anomalib.pipelines.tiled_ensemble.components.stats_calculation"
PIPELINE_LOGGERS = (
    "anomalib.pipelines.components.runners.serial",
    "anomalib.pipelines.components.runners.parallel",
    "anomalib.pipelines.components.base.pipeline",
)
THRESHOLD_LOGGER = "anomalib.metrics.threshold.f1_adaptive_threshold"


def register_models() -> None:
    """Without it, ``get_model`` rejects the class path ``anomalib_stfpm.Stfpm``."""
    anomalib.models.ALLOWED_MODULES.add("anomalib_stfpm")


def register_datamodule(datamodule: type[AnomalibDataModule]) -> None:
    """Without it, ``get_datamodule`` does not find the class, for it looks up every class path in ``anomalib.data``."""
    setattr(anomalib.data, datamodule.__name__, datamodule)


def accept_components_in_get_model() -> None:
    """Without it, the tiled ensemble fails to give a configured model its pre-processor.

    ``get_model`` merges it into the arguments, in an OmegaConf container that rejects objects.
    """
    get_model = anomalib.models.get_model
    if hasattr(get_model, "__wrapped__"):
        return

    @wraps(get_model)
    def get_model_with_components(model: Any, *args: Any, **kwdargs: Any) -> AnomalibModule:  # noqa: ANN401
        if isinstance(model, dict) and kwdargs:
            model = OmegaConf.create(model, flags={"allow_objects": True})
        return get_model(model, *args, **kwdargs)

    for module in ("anomalib.models", TILED_ENSEMBLE_MODELS):
        if module in sys.modules:  # a module that imported the function has its own reference
            sys.modules[module].get_model = get_model_with_components  # type: ignore[attr-defined]


def prepare_command_line() -> None:
    """Without it, ``anomalib`` ignores ``--seed_everything``, and prints each line twice.

    Does nothing unless the command line is imported: importing it would change how Python prints errors.
    """
    cli: Any = getattr(sys.modules.get("anomalib.cli.cli"), "AnomalibCLI", None)
    if cli is None or hasattr(cli.before_instantiate_classes, "__wrapped__"):
        return
    before_instantiate_classes = cli.before_instantiate_classes

    @wraps(before_instantiate_classes)
    def prepare(self: Any) -> None:  # noqa: ANN401
        config = self.config.get(self.config["subcommand"]) or {}
        hide_known_messages()
        _log_once()
        files = config.get("config") or []
        if chooses_validation_images(files if isinstance(files, list) else [files]):
            hide("anomalib_stfpm.training.student_selection", "Validation images are not held out")
        seed = config.get("seed_everything")
        if isinstance(seed, int) and not isinstance(seed, bool):
            seed_everything(seed, workers=True)
        before_instantiate_classes(self)

    cli.before_instantiate_classes = prepare


def _log_once() -> None:
    """Remove the second log handler of ``anomalib``, which breaks lines that a user may want to copy."""
    root = logging.getLogger()
    rich = [handler for handler in root.handlers if isinstance(handler, RichHandler)]
    if len(root.handlers) > len(rich):
        for handler in rich:
            root.removeHandler(handler)


def chooses_validation_images(files: Sequence[Any]) -> bool:
    """Whether the command line or one of its configuration files sets ``val_split_mode``."""
    if any("val_split_mode" in argument for argument in sys.argv):
        return True
    contents = [yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in files if file is not None]
    datamodules = [one["data"] for one in contents if isinstance(one, dict) and isinstance(one.get("data"), dict)]
    return any("val_split_mode" in (one.get("init_args") or {}) for one in datamodules)


def lock_folder_numbering() -> None:
    """Without it, one of two trainings that start at the same moment fails: both make the same numbered folder.

    ``latest`` becomes a relative link. anomalib's is absolute, and breaks when the folder is moved.
    """
    engine: Any = anomalib.engine.engine
    create_versioned_dir = engine.create_versioned_dir
    if hasattr(create_versioned_dir, "__wrapped__"):
        return

    @wraps(create_versioned_dir)
    def create_locked(root_dir: str | Path) -> Path:
        folder = Path(root_dir).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".versions.lock")
        with suppress(NotImplementedError, OSError):  # the file system has no locks
            lock.acquire()
        try:
            created: Path = create_versioned_dir(root_dir)
            link_latest(created)
        finally:
            lock.release()
        return created

    engine.create_versioned_dir = create_locked


def use_image_rules(rules: Any) -> None:  # noqa: ANN401  # the module with the functions
    """Find and read images by ``anomalib_stfpm.data.image_files``.

    Without it, images of more than 8 bits become white or black, turned images do not fit their masks, files that tools
    left are images, and masks are paired in the order of their names.
    """
    read_image = anomalib.data.utils.read_image
    if read_image is rules.read_image:
        return
    folder: Any = import_module("anomalib.data.datasets.image.folder")
    predict: Any = import_module("anomalib.data.predict")
    _replace(read_image, rules.read_image)
    _replace(anomalib.data.utils.read_mask, rules.read_mask)

    prepare_files = folder._prepare_files_labels

    @wraps(prepare_files)
    def prepare_images(path: str | Path, path_type: str, extensions: Any = None) -> tuple[list[Path], list[str]]:  # noqa: ANN401
        files, _ = prepare_files(path, path_type, extensions)
        images = rules.without_leftovers(files, Path(path))
        return images, [path_type] * len(images)

    make_dataset = folder.make_folder_dataset

    @wraps(make_dataset)
    def make_dataset_with_masks_by_name(
        root: Any = None,  # noqa: ANN401
        abnormal_dir: Any = None,  # noqa: ANN401
        mask_dir: Any = None,  # noqa: ANN401
        extensions: Any = None,  # noqa: ANN401
        **others: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        samples = make_dataset(root=root, abnormal_dir=abnormal_dir, extensions=extensions, **others)
        image_folders, mask_folders = _folders(abnormal_dir, root), _folders(mask_dir, root)
        if not image_folders or not mask_folders:
            return samples
        if len(image_folders) != len(mask_folders):
            counts = f"{len(mask_folders)} for {len(image_folders)}"
            msg = f"mask_dir must have a folder for each of abnormal_dir: got {counts}."
            raise ValueError(msg)
        for image_folder, mask_folder in zip(image_folders, mask_folders, strict=True):
            inside = samples.image_path.map(lambda path, folder=image_folder: folder in Path(path).parents)
            if inside.any():
                masks, _ = prepare_images(mask_folder, "mask", extensions)
                images = list(map(Path, samples.image_path[inside]))
                found = rules.masks_by_name(images, image_folder, masks, mask_folder)
                samples.loc[inside, "mask_path"] = list(map(str, found))
        samples.attrs["task"] = "segmentation"
        return samples

    folder._prepare_files_labels, folder.make_folder_dataset = prepare_images, make_dataset_with_masks_by_name

    find_images = predict.get_image_filenames

    @wraps(find_images)
    def find_images_only(path: str | Path, *args: Any, **kwargs: Any) -> list[Path]:  # noqa: ANN401
        found: list[Path] = find_images(path, *args, **kwargs)
        return rules.without_leftovers(found, Path(path).resolve()) if Path(path).is_dir() else found

    predict.get_image_filenames = find_images_only

    get_item = AnomalibDataset.__getitem__

    @wraps(get_item)
    def get_item_with_mask_that_fits(self: AnomalibDataset, index: int) -> Any:  # noqa: ANN401
        item = get_item(self, index)
        rules.require_mask_of_image_size(item)
        return item

    AnomalibDataset.__getitem__ = get_item_with_mask_that_fits  # type: ignore[method-assign]
    dataset: Any
    for dataset in (AnomalibDataset, predict.PredictDataset):
        # A worker process that starts afresh imports this package with the function.
        dataset.__getstate__ = lambda self: {**vars(self), "read_image": rules.read_image}

    # Images are shown as they were read.
    item_visualizer: Any = import_module("anomalib.visualization.image.item_visualizer")
    item_visualizer.Image = SimpleNamespace(**{**vars(Image), "open": rules.open_image})


def _replace(function: Any, other: Any) -> None:  # noqa: ANN401
    """Replace a function of anomalib in all modules that have imported it."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "anomalib":
            for attribute in [key for key, value in vars(module).items() if value is function]:
                setattr(module, attribute, other)


def _folders(given: Any, root: Any) -> list[Path]:  # noqa: ANN401
    several = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
    return [resolve_path(path, root) for path in several if path is not None]


def link_latest(folder: Path) -> None:
    """Let the link ``latest`` beside a folder point to it."""
    latest = folder.with_name(LATEST)
    if latest.is_symlink():  # Windows may not allow links
        latest.unlink()
        latest.symlink_to(folder.name, target_is_directory=True)


def export_beside_checkpoint() -> None:
    """Without it, exports without ``export_root`` overwrite each other in ``results/weights``."""
    engine = anomalib.engine.engine.Engine
    export = engine.export
    if hasattr(export, "__wrapped__"):
        return

    @wraps(export)
    def export_to_run(self: Any, *args: Any, **kwargs: Any) -> Path | None:  # noqa: ANN401
        given = signature(export).bind(self, *args, **kwargs).arguments
        checkpoint = given.get("ckpt_path")
        if checkpoint is not None and given.get("export_root") is None:
            folder = Path(checkpoint).resolve().parent
            given["export_root"] = folder.parents[1] if folder.parts[-2:] == ("weights", "lightning") else folder
        return export(**given)

    engine.export = export_to_run  # type: ignore[method-assign]


def write_to_folder(trainer: pl.Trainer, folder: Path) -> None:
    """Change the folder a trainer writes to. Without it, each process of a distributed training has its own folder."""
    trainer._default_root_dir = str(folder)  # type: ignore[attr-defined]


@contextmanager
def failures_of_pipelines() -> Iterator[list[BaseException]]:
    """Collect the errors of anomalib's pipelines. Without it, ``tiled-ensemble`` ends without an error.

    A pipeline only logs them, and removes the handlers of all loggers, but not their filters.
    """
    failures: list[BaseException] = []

    def collect(record: logging.LogRecord) -> bool:
        if record.exc_info and record.exc_info[1] is not None:
            failures.append(record.exc_info[1])
        return True

    loggers = [logging.getLogger(name) for name in PIPELINE_LOGGERS]
    for logger in loggers:
        logger.addFilter(collect)
    try:
        yield failures
    finally:
        for logger in loggers:
            logger.removeFilter(collect)


@contextmanager
def ensembles_post_process_with(post_processor: type[PostProcessor]) -> Iterator[None]:
    """Set the tiled ensemble's post-processor. Without it, heat maps are empty if validation has only normal images."""
    statistics: Any = import_module(TILED_ENSEMBLE_STATISTICS)
    before = statistics.PostProcessor
    statistics.PostProcessor = post_processor
    try:
        yield
    finally:
        statistics.PostProcessor = before


class OncePerFit(logging.Filter):
    """Log each message of anomalib's adaptive threshold once until the filter is removed.

    Without it, anomalib warns twice in every epoch if validation has only normal images.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message is new."""
        is_new = record.getMessage() not in self._logged
        self._logged.add(record.getMessage())
        return is_new

    def install(self) -> None:
        """Start to filter."""
        logging.getLogger(THRESHOLD_LOGGER).addFilter(self)

    def remove(self) -> None:
        """Stop to filter."""
        logging.getLogger(THRESHOLD_LOGGER).removeFilter(self)
