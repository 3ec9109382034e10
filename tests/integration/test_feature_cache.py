"""The feature cache saves work and does not change the student."""

import logging
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anomalib.data.datasets.base.image as anomalib_dataset
import pytest
import torch
from anomalib.callbacks import TilerConfigurationCallback
from anomalib.data import AnomalibDataset, ImageBatch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import CenterCrop, Compose, GaussianBlur, RandomHorizontalFlip

from anomalib_stfpm import Stfpm
from anomalib_stfpm.backbone.feature_distance import normalised
from anomalib_stfpm.data import MVTecLayout
from tests.conftest import CategoryWriter, write_image
from tests.readme import REPOSITORY

from .conftest import assert_same, quiet_engine, tiny_model

pytestmark = pytest.mark.integration

TRAINED = 7
IMAGE_BYTES = 4 * 3 * 64 * 64 + 64 * 64 + 8 + 4 * (64 * 16 * 16 + 128 * 8 * 8 + 256 * 4 * 4)  # features in 32 bits


class DropLast(MVTecLayout):
    """A datamodule whose training leaves out what does not fill a batch."""

    def train_dataloader(self) -> Any:  # noqa: ANN401
        return DataLoader(
            self.train_data, batch_size=2, shuffle=True, drop_last=True, collate_fn=self.train_data.collate_fn
        )


class OwnWorkers(MVTecLayout):
    """A datamodule that starts worker processes whatever its num_workers says."""

    def train_dataloader(self) -> Any:  # noqa: ANN401
        return DataLoader(
            self.train_data, batch_size=2, shuffle=True, num_workers=2, collate_fn=self.train_data.collate_fn
        )


class OwnBatches(MVTecLayout):
    """A datamodule that makes batches in its own way."""

    def train_dataloader(self) -> Any:  # noqa: ANN401
        def collate(items: list[Any]) -> Any:  # noqa: ANN401
            return self.train_data.collate_fn(items)

        return DataLoader(self.train_data, batch_size=2, shuffle=True, collate_fn=collate)


class Look(Callback):
    """A callback that might change images."""

    def on_train_batch_start(self, *args: object) -> None:
        del args


@pytest.fixture
def root(write_category: CategoryWriter) -> Path:
    root = write_category("part")
    for index in range(4, TRAINED):
        write_image(root / "part" / "train" / "good" / f"{index:03}.png", seed=index)
    return root


def fit(
    root: Path,
    teacher_file: Path,
    results: Path,
    datamodule: type[MVTecLayout] = MVTecLayout,
    data: dict[str, Any] | None = None,
    trainer: dict[str, Any] | None = None,
    **model_arguments: Any,  # noqa: ANN401
) -> tuple[Stfpm, Any]:
    """Fit three epochs with shuffling; return model and datamodule."""
    seed_everything(0)
    model = tiny_model(teacher_file, **{"layers": ["layer1", "layer2", "layer3"], **model_arguments})
    arguments = {"num_workers": 0, "train_batch_size": 2, "eval_batch_size": 3, "seed": 0, **(data or {})}
    module = datamodule(root=root, category="part", **arguments)
    quiet_engine(results, **{"max_epochs": 3, **(trainer or {})}).fit(model, datamodule=module)
    return model, module


def state(model: Stfpm) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "held-out images": {"data": {"val_split_mode": "from_train", "val_split_ratio": 0.3}},
    "workers": {"datamodule": OwnWorkers},
    "threads instead of workers": {"data": {"num_workers": 2}},
    "last batch dropped": {"datamodule": DropLast},
    "gradients accumulated": {"trainer": {"accumulate_grad_batches": 2}},
    "tiles": {"trainer": {"callbacks": [TilerConfigurationCallback(enable=True, tile_size=32, stride=32)]}},
}
BUDGETS: dict[str, dict[str, Any]] = {
    "all": {"cache_budget": "1GB"},
    "some": {"cache_budget": 4 * IMAGE_BYTES},
}


@pytest.mark.parametrize(("case", "budget"), [("plain", "all"), ("tiles", "all"), *((case, "some") for case in CASES)])
def test_the_exact_cache_gives_the_same_student_bit_for_bit(
    case: str, budget: str, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    forgetful, _ = fit(root, teacher_file, tmp_path / "a", **CASES[case], cache_budget=0)
    remembering, _ = fit(root, teacher_file, tmp_path / "b", **CASES[case], **BUDGETS[budget], exact_cache=True)
    assert_same(state(remembering), state(forgetful))


def test_a_cache_on_disk_gives_the_same_student(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    forgetful, _ = fit(root, teacher_file, tmp_path / "a", cache_budget=0)
    spilling, _ = fit(
        root, teacher_file, tmp_path / "b", cache_budget=2 * IMAGE_BYTES, cache_dir=tmp_path / "cache",
        exact_cache=True,
    )  # fmt: skip
    assert_same(state(spilling), state(forgetful))
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_16_bit_cache_gives_the_same_student_whatever_its_size(
    root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    recipe = {"hard_mining": 0.0, "schedule": "constant"}  # which amplify the smallest differences less
    exact, _ = fit(root, teacher_file, tmp_path / "a", exact_cache=True, **recipe)
    all_remembered, _ = fit(root, teacher_file, tmp_path / "b", **recipe)
    some_remembered, _ = fit(root, teacher_file, tmp_path / "c", cache_budget=3 * IMAGE_BYTES, **recipe)
    assert_same(state(some_remembered), state(all_remembered))
    weights, exact_weights = (
        torch.cat([p.detach().flatten() for p in model.model.student.parameters()]) for model in (all_remembered, exact)
    )
    assert not torch.equal(weights, exact_weights)
    torch.testing.assert_close(weights, exact_weights, rtol=0, atol=0.02)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each training image has been read."""
    counted: Counter[str] = Counter()
    read_image = anomalib_dataset.read_image

    def count(path: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if "train" in Path(path).parts:
            counted[Path(path).name] += 1
        return read_image(path, *args, **kwargs)

    monkeypatch.setattr(anomalib_dataset, "read_image", count)
    return counted


def test_every_image_is_read_and_shown_to_the_teacher_once(
    root: Path, teacher_file: Path, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[int] = []
    teacher_pyramid = tiny_model(teacher_file).model.__class__.teacher_pyramid

    def record(self: Any, images: torch.Tensor) -> list[torch.Tensor]:  # noqa: ANN401
        shown.append(len({image.numpy().tobytes() for image in images}))
        return teacher_pyramid(self, images)

    monkeypatch.setattr("anomalib_stfpm.StfpmModel.teacher_pyramid", record)
    fit(root, teacher_file, tmp_path, trainer={"limit_val_batches": 0})
    assert set(reads.values()) == {1}
    assert len(reads) == sum(shown) == TRAINED


def test_images_that_do_not_fit_in_the_cache_are_read_in_every_epoch(
    root: Path, teacher_file: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    fit(root, teacher_file, tmp_path, cache_budget=4 * IMAGE_BYTES, exact_cache=True)
    counts = [reads[name] for name in sorted(reads)]
    assert counts[:4] == [1] * 4
    assert min(counts[4:]) >= 3


RANDOM = RandomHorizontalFlip(0.5)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"data": {"train_augmentations": RANDOM}}, "RandomHorizontalFlip may change them"),
        (
            {"data": {"train_augmentations": Compose([CenterCrop(60), GaussianBlur(3)])}},
            "GaussianBlur may change them",
        ),
        ({"datamodule": OwnBatches}, "the dataloader makes batches in its own way"),
        ({"trainer": {"callbacks": [Look()]}}, "the callback Look may change them in on_train_batch_start"),
        ({"pre_processor": False}, "they are not resized to one height and width before they are batched"),
    ],
)
def test_images_that_may_change_are_not_cached_and_the_log_says_why(
    options: dict[str, Any], reason: str, root: Path, teacher_file: Path, tmp_path: Path, reads: Counter[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    with caplog.at_level(logging.INFO, "anomalib_stfpm.training.cache.feature_cache"):
        fit(root, teacher_file, tmp_path, trainer={"limit_val_batches": 0, **options.pop("trainer", {})}, **options)
    assert set(reads.values()) == {3}
    said = [record.getMessage() for record in caplog.records if "train" in record.getMessage()]
    assert said == [f"Features of train images are computed in every epoch, because {reason}."]


def test_images_with_deterministic_augmentations_are_cached(
    root: Path, teacher_file: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    fit(root, teacher_file, tmp_path, data={"train_augmentations": CenterCrop(48)})
    assert set(reads.values()) == {1}


def test_a_file_that_changes_between_fits_is_read_again(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    model = tiny_model(teacher_file)
    datamodule = MVTecLayout(root=root, category="part", num_workers=0, train_batch_size=2)
    quiet_engine(tmp_path).fit(model, datamodule=datamodule)
    write_image(root / "part" / "train" / "good" / "000.png", seed=99)
    seen: list[torch.Tensor] = []

    class Record(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
            del trainer, pl_module, outputs, batch_idx
            seen.extend(i for i, path in zip(batch.image, batch.image_path, strict=True) if path.endswith("000.png"))

    quiet_engine(tmp_path, callbacks=[Record()]).fit(model, datamodule=datamodule)
    assert isinstance(datamodule.train_data, AnomalibDataset)
    image: Any = datamodule.train_data[0].image
    expected = model.pre_processor.transform(image[None])[0]
    assert torch.equal(seen[0], expected)


class FailingError(RuntimeError):
    """What a callback raises."""


class Fail(Callback):
    """A callback that fails in the second epoch."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
        del pl_module
        if trainer.current_epoch == 1:
            raise FailingError


def test_the_datamodule_gives_images_again_also_when_training_fails(
    root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    model = tiny_model(teacher_file)
    datamodule = MVTecLayout(root=root, category="part", num_workers=0)
    with pytest.raises(FailingError):
        quiet_engine(tmp_path, max_epochs=2, callbacks=[Fail()]).fit(model, datamodule=datamodule)
    for loader in (datamodule.train_dataloader(), datamodule.val_dataloader()):
        assert isinstance(next(iter(loader)), ImageBatch)


@pytest.mark.parametrize("budget", [0, 2 * IMAGE_BYTES, "1GB"])
def test_all_images_with_their_teacher_features_are_there_until_fit_ends(
    budget: int | str, root: Path, teacher_file: Path, tmp_path: Path
) -> None:
    seen: dict[str, list[Any]] = {"train": [], "validation": []}

    class Look(Callback):
        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
            del trainer
            for stage, batches in seen.items():
                batches.extend(pl_module.feature_cache.batches(stage, batch_size=3))

    split = {"val_split_mode": "from_train", "val_split_ratio": 0.3}
    model, module = fit(
        root, teacher_file, tmp_path, data=split, trainer={"callbacks": [Look()]}, cache_budget=budget, exact_cache=True
    )
    for batches, dataset in ((seen["train"], module.train_data), (seen["validation"], module.val_data)):
        assert [path for batch in batches for path in batch.image_path] == list(dataset.samples.image_path)
        images = model.pre_processor.transform(torch.stack([item.image for item in dataset]))
        assert torch.equal(torch.cat([batch.image for batch in batches]), images)
        expected = model.model.teacher_pyramid(images)
        for level, features in enumerate(expected):
            remembered = torch.cat([batch.teacher_pyramid[level] for batch in batches])
            torch.testing.assert_close(remembered, normalised(features), rtol=0, atol=1e-6)
    assert list(model.feature_cache.batches("train")) == []


@pytest.mark.parametrize("is_shown", [True, False])
def test_a_progress_bar_says_what_happens_before_the_first_epoch(
    is_shown: bool, root: Path, teacher_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fit(root, teacher_file, tmp_path, trainer={"enable_progress_bar": is_shown})
    said = " ".join(capsys.readouterr().out.split())
    assert (f"Reading {TRAINED} train images and showing them to the teacher" in said) is is_shown


@pytest.mark.parametrize("limits", [{"max_epochs": 1}, {"limit_train_batches": 1}, {"max_steps": 2}])
def test_a_short_training_reads_no_images_that_it_does_not_need(
    limits: dict[str, Any], root: Path, teacher_file: Path, tmp_path: Path, reads: Counter[str]
) -> None:
    fit(root, teacher_file, tmp_path, trainer={"limit_val_batches": 0, **limits})
    steps = {"max_epochs": 4, "limit_train_batches": 3, "max_steps": 2}[next(iter(limits))]
    assert sum(reads.values()) <= 2 * steps


def test_no_workers_start_for_remembered_images(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    workers: list[int] = []

    class Record(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401
            del pl_module
            workers.append(trainer.train_dataloader.num_workers)

    fit(root, teacher_file, tmp_path, OwnWorkers, trainer={"callbacks": [Record()]})
    assert workers == [0, 0, 0]


def test_a_missing_cache_folder_is_rejected(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"cache_dir must be a folder that exists: there is no '.*nowhere'"):
        fit(root, teacher_file, tmp_path, cache_dir=tmp_path / "nowhere")


def test_bf16_features_are_compared_in_32_bits(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    losses: list[torch.Tensor] = []

    class Record(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ANN401
            del trainer, pl_module, batch, batch_idx
            losses.append(outputs["loss"])

    fit(root, teacher_file, tmp_path, trainer={"precision": "bf16-mixed", "callbacks": [Record()]})
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_two_processes_with_a_cache_give_the_same_student(root: Path, teacher_file: Path, tmp_path: Path) -> None:
    for budget in ("0", "1GB"):
        command = [sys.executable, "-m", "tests.integration.two_processes", root, teacher_file, tmp_path, budget]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(command, cwd=REPOSITORY, env=environment, check=True, capture_output=True, timeout=300)
    students = {path.stem: torch.load(path, weights_only=True) for path in tmp_path.glob("*.pt")}
    assert students.keys() == {"0-0", "0-1", "1GB-0", "1GB-1"}
    for name in ("0-1", "1GB-0", "1GB-1"):
        assert_same(students[name], students["0-0"])
