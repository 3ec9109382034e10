"""Images are cached only if everything that touches them is known to be deterministic."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from anomalib.data.datasets import FolderDataset
from anomalib.pre_processing import PreProcessor
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, EarlyStopping, LambdaCallback
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.training.cache.unchanging_images import why_images_may_change, why_loader_may_change_them
from tests.conftest import CategoryWriter

RESIZE = v2.Resize((32, 32))


class Moving(MVTecLayout):
    """A datamodule that changes batches after the transfer to the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        del dataloader_idx
        return batch


class Augmenting(PreProcessor):
    """A pre-processor of the user's own."""

    def on_train_batch_start(self, *args: Any) -> None:  # noqa: ANN401
        super().on_train_batch_start(*args)


class Changing(LightningModule):
    """A model of the user's that changes batches after the transfer to the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:  # noqa: ANN401
        del dataloader_idx
        return batch


class OwnReader(FolderDataset):
    """A dataset that reads in its own way."""

    def __getitem__(self, index: int) -> Any:  # noqa: ANN401, D105
        return super().__getitem__(index)


class Look(Callback):
    """A callback that looks at training batches, and not at those of validation."""

    def on_train_batch_start(self, *args: object) -> None:
        del args


@pytest.fixture
def root(write_category: CategoryWriter) -> Path:
    return write_category("part")


def trainer_with(datamodule: Any, **parts: Any) -> Any:  # noqa: ANN401
    model = parts.get("model", LightningModule())
    model.pre_processor = parts.get("pre_processor", PreProcessor(RESIZE))
    return SimpleNamespace(datamodule=datamodule, lightning_module=model, callbacks=parts.get("callbacks", []))


def datamodule_of(root: Path, kind: type[MVTecLayout] = MVTecLayout, augmentations: Any = RESIZE) -> Any:  # noqa: ANN401
    datamodule: Any = kind(root=root, category="part", num_workers=0)
    datamodule.setup()
    datamodule.train_data.augmentations = augmentations
    return datamodule


def test_resized_and_normalised_images_do_not_change(root: Path) -> None:
    datamodule = datamodule_of(root, augmentations=v2.Compose([v2.Grayscale(3), v2.CenterCrop(60), RESIZE]))
    pre_processor = PreProcessor(v2.Compose([RESIZE, v2.Normalize([0.5] * 3, [0.5] * 3)]))
    trainer = trainer_with(datamodule, pre_processor=pre_processor, callbacks=[EarlyStopping("train_loss")])
    assert why_images_may_change(trainer, datamodule.train_data, "train") is None


@pytest.mark.parametrize(
    "transform",
    [
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(),
        v2.GaussianBlur(3),
        v2.RandomApply([v2.Grayscale(3)]),
        v2.RandomResizedCrop(32),
        v2.Lambda(lambda image: image),
        v2.Compose([v2.Compose([v2.ElasticTransform()])]),
    ],
    ids=lambda transform: type(transform).__name__,
)
@pytest.mark.parametrize("before_batching", [True, False])
def test_random_and_unknown_transforms_may_change_images(transform: Any, before_batching: bool, root: Path) -> None:  # noqa: ANN401
    datamodule = datamodule_of(root, augmentations=v2.Compose([transform, RESIZE]) if before_batching else RESIZE)
    pre_processor = PreProcessor(RESIZE if before_batching else v2.Compose([RESIZE, transform]))
    trainer = trainer_with(datamodule, pre_processor=pre_processor)
    reason = why_images_may_change(trainer, datamodule.train_data, "train")
    assert reason is not None
    assert reason.endswith("may change them")


@pytest.mark.parametrize("augmentations", [None, v2.Resize(32), v2.Compose([RESIZE, v2.Pad(2)])])
def test_images_of_several_sizes_are_not_cached(augmentations: Any, root: Path) -> None:  # noqa: ANN401
    datamodule = datamodule_of(root, augmentations=augmentations)
    reason = why_images_may_change(trainer_with(datamodule), datamodule.train_data, "train")
    assert reason == "they are not resized to one height and width before they are batched"


def test_hooks_and_readers_of_the_users_may_change_images(root: Path) -> None:
    datamodule, moving = datamodule_of(root), datamodule_of(root, Moving)
    own = OwnReader(name="part", normal_dir="part/train/good", root=root, augmentations=RESIZE)
    cases = {
        "the images do not come from a datamodule of anomalib": (trainer_with(None), datamodule.train_data),
        "Moving has its own on_after_batch_transfer": (trainer_with(moving), moving.train_data),
        "OwnReader reads images in its own way": (trainer_with(datamodule), own),
        "the callback Augmenting may change them in on_train_batch_start": (
            trainer_with(datamodule, callbacks=[Augmenting(RESIZE)]),
            datamodule.train_data,
        ),
        "Changing has its own on_after_batch_transfer": (
            trainer_with(datamodule, model=Changing()),
            datamodule.train_data,
        ),
        "the callback LambdaCallback may change them in on_train_batch_start": (
            trainer_with(datamodule, callbacks=[LambdaCallback(on_train_batch_start=print)]),
            datamodule.train_data,
        ),
        "the callback Look may change them in on_train_batch_start": (
            trainer_with(datamodule, callbacks=[Look()]),
            datamodule.train_data,
        ),
    }
    for reason, (trainer, dataset) in cases.items():
        assert why_images_may_change(trainer, dataset, "train") == reason


def test_training_hooks_do_not_count_for_validation_images(root: Path) -> None:
    datamodule = datamodule_of(root)
    datamodule.val_data.augmentations = RESIZE
    trainer = trainer_with(datamodule, callbacks=[Look()])
    assert why_images_may_change(trainer, datamodule.val_data, "validation") is None


def test_the_dataloader_must_be_as_anomalib_makes_it(root: Path) -> None:
    data = datamodule_of(root).train_data
    assert why_loader_may_change_them(DataLoader(data, collate_fn=data.collate_fn), data) is None
    assert why_loader_may_change_them([], data) == "the dataloader loads another dataset than the datamodule's"
    other: Any = DataLoader(list(range(2)), collate_fn=data.collate_fn)
    assert why_loader_may_change_them(other, data) == "the dataloader loads another dataset than the datamodule's"
    assert why_loader_may_change_them(DataLoader(data), data) == "the dataloader makes batches in its own way"
