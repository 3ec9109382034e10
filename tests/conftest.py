"""What the tests share: random teacher weights, tiny categories, and a machine without a network."""

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

# A test process a core, so each and what it starts computes on one: before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from rich.logging import RichHandler
from safetensors.torch import save_file

from anomalib_stfpm.openvino.signal_stack import signal_stack_kept
from anomalib_stfpm_deploy.quiet import HideMessages

BACKBONE = "resnet18.tv_in1k"


def random_weights(backbone: str) -> dict[str, torch.Tensor]:
    """Random weights of a complete backbone, with running statistics that are not those of a new network."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = timm.create_model(backbone, pretrained=False)
    generator = torch.Generator().manual_seed(7)
    weights: dict[str, torch.Tensor] = {
        key: torch.rand(value.shape, generator=generator) + 0.5 if "running" in key else value
        for key, value in model.state_dict().items()
    }
    return weights


@pytest.fixture(scope="session")
def teacher_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .safetensors file with random weights of a ResNet-18."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file(random_weights(BACKBONE), path)
    return path


@pytest.fixture(autouse=True)
def _logs_are_restored() -> Iterator[None]:
    """Remove what a command line does to the logs: its handlers and filters would act in all later tests."""
    yield
    for logger in map(logging.getLogger, logging.root.manager.loggerDict):
        for hidden in [one for one in logger.filters if isinstance(one, HideMessages)]:
            logger.removeFilter(hidden)
    for logger in (logging.getLogger(), logging.getLogger("lightning.pytorch")):
        for handler in [one for one in logger.handlers if isinstance(one, RichHandler)]:
            logger.removeHandler(handler)


@pytest.fixture(autouse=True)
def _signals_find_a_stack() -> Iterator[None]:
    """Whatever becomes of the networks of a test, the workers of the tests after it end without a crash."""
    with signal_stack_kept():
        yield


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which every connection is refused."""

    def refuse(*args: object, **kwargs: object) -> NoReturn:
        del args, kwargs
        message = "no network here"
        raise OSError(message)

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


class Hostile:
    """What makes a file when it is read as a pickle."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:  # noqa: D105  # what pickle asks for
        return Path.touch, (self.made,)


def write_image(path: Path, seed: int, *, defect: bool = False) -> None:
    """Write a 64 x 64 colour image of noise, with a white square in it if it is to have a defect."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 128, size=(64, 64, 3), dtype=np.uint8)
    if defect:
        pixels[20:40, 20:40] = 255
    Image.fromarray(pixels).save(path)


def write_mask(path: Path) -> None:
    """Write the mask of the white square."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((64, 64), dtype=np.uint8)
    pixels[20:40, 20:40] = 255
    Image.fromarray(pixels).save(path)


CategoryWriter = Callable[..., Path]


@pytest.fixture
def write_category(tmp_path: Path) -> CategoryWriter:
    """A function that writes a tiny category; its arguments name the folders as the data set's layout wants them."""

    def write(category: str, good: str = "good", bad: str = "bad") -> Path:
        root = tmp_path / "images"
        for index in range(4):
            write_image(root / category / "train" / good / f"{index:03}.png", seed=index)
        for index in range(2):
            write_image(root / category / "test" / good / f"{index:03}.png", seed=10 + index)
            write_image(root / category / "test" / bad / f"{index:03}.png", seed=20 + index, defect=True)
            write_mask(root / category / "ground_truth" / bad / f"{index:03}.png")
        return root

    return write
