"""What the integration tests share."""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data.utils import read_image
from anomalib.engine import Engine
from anomalib.post_processing import PostProcessor

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from tests.conftest import random_weights, write_image
from tests.readme import REPOSITORY

from .two_nodes import TwoNodes

HEARS_CONTROL_C: dict[str, Any] = (
    {"preexec_fn": partial(signal.signal, signal.SIGINT, signal.SIG_DFL)} if os.name == "posix" else {}
)
"""For a process that is to hear Ctrl-C, which jobs in the background ignore."""

collect_ignore = ["no_network"]  # importing what is in there, to look for doctests, would cut off all tests


def tiny_model(teacher_file: Path, **arguments: Any) -> Stfpm:  # noqa: ANN401
    """A model that is quick to run on tiny images."""
    tiny = {"layers": [1, 2, 3], "input_size": (64, 64)}  # without the fourth, which has most of the weights
    return Stfpm(**{"teacher_weights": teacher_file, "visualizer": False, **tiny, **arguments})


def quiet_engine(root: Path, **arguments: Any) -> Engine:  # noqa: ANN401
    """An engine that shows nothing and trains one epoch, unless told otherwise."""
    defaults = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    return Engine(default_root_dir=root, **{**defaults, **arguments})


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    """Assert that two states are equal, bit for bit; a threshold that is not set, not a number, equals another one."""
    assert left.keys() == right.keys()
    assert [key for key in left if not torch.equal(left[key].nan_to_num(7), right[key].nan_to_num(7))] == []


@contextmanager
def full_disk(largest: int) -> Iterator[None]:
    """Let no file grow beyond a number of bytes, in this process and those that it starts: as on a disk that is full.

    What writes gets an ``OSError`` after it has written a part.
    """
    resource = pytest.importorskip("resource", reason="the system cannot bound the size of files")
    _, hard = before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def trained_for_a_step(backbone: str, input_size: tuple[int, int] = (64, 64), **others: Any) -> Stfpm:  # noqa: ANN401
    """A model with random teacher weights, thresholds and a student that was trained for one step."""
    torch.manual_seed(0)
    model = Stfpm(backbone=backbone, input_size=input_size, **{"schedule": "constant", **others})
    model.model.load_teacher(random_weights(backbone))
    optimizer = model.configure_optimizers()
    before = model.loss(*model.model.train()(torch.rand(4, 3, *input_size)))
    before.backward()
    optimizer.step()
    assert torch.isfinite(before)
    with torch.no_grad():
        validate(model.eval(), [torch.rand(1, 3, 100, 80), torch.rand(1, 3, 20, 20)])
    return model


def validate(model: Stfpm, images: list[torch.Tensor]) -> None:
    """Set thresholds so that nothing of these images is clamped, which would hide a difference."""
    processor = model.post_processor
    if not isinstance(processor, PostProcessor):
        return
    raw = [model.model(model.pre_processor(image) if model.pre_processor else image) for image in images]
    scores, maps = torch.cat([one.pred_score for one in raw]), torch.cat([one.anomaly_map.flatten() for one in raw])
    for values, name in ((scores, "image"), (maps, "pixel")):
        middle, span = (values.min() + values.max()) / 2, values.max() - values.min()
        getattr(processor, f"{name}_min").copy_(middle - span)
        getattr(processor, f"{name}_max").copy_(middle + span)
        getattr(processor, f"_{name}_threshold").copy_(middle)


@pytest.fixture(scope="session")
def model() -> Stfpm:
    """A model that was trained for one step. Nothing may change it."""
    return trained_for_a_step("resnet18", visualizer=False)


@pytest.fixture(scope="session")
def exported(model: Stfpm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenVINO export of that model. Nothing may change it."""
    with torch.no_grad():
        paths = written(tmp_path_factory.mktemp("images"))
        images = [read_image(path, as_tensor=True).unsqueeze(0) for path in paths]
        validate(model, [*images, torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64)])  # for a range that is wide
    return model.to_openvino(tmp_path_factory.mktemp("exported"))


def tiny_category(root: Path) -> MVTecLayout:
    """A datamodule of normal images, enough to quantize a model with."""
    for index in range(4):
        write_image(root / "part" / "train" / "good" / f"{index}.png", index)
        write_image(root / "part" / "test" / "good" / f"{index}.png", 10 + index)
    return MVTecLayout(root, "part", num_workers=0)


def written(folder: Path) -> list[Path]:
    """Write three images, one of them in a subfolder and one with a defect."""
    paths = [folder / name for name in ("1.png", "2.jpg", "deeper/1.png")]
    for seed, path in enumerate(paths):
        write_image(path, seed, defect=seed == 1)
    return paths


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        browser = started.chromium.launch(executable_path=found, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def cluster() -> Iterator[TwoNodes]:
    """A Ray cluster whose nodes compute in one thread."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
        environment.setenv("OMP_NUM_THREADS", "1")
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "any")
        environment.setenv("AWS_EC2_METADATA_DISABLED", "true")
        made = TwoNodes()
        yield made
        made.nodes.shutdown()
