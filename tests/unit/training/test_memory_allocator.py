"""Freed memory is kept during training on a CPU, and returned to the system afterwards."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from anomalib_stfpm.training import memory_allocator
from anomalib_stfpm.training.memory_allocator import KeepFreedMemory

TRAINER: Any = None


class Library:
    """A C library that records its calls."""

    def __init__(self) -> None:
        self.told: list[tuple[int, ...]] = []

    def mallopt(self, parameter: int, value: int) -> None:
        self.told.append((parameter, value))

    def malloc_trim(self, pad: int) -> None:
        self.told.append((pad,))


def model(device: str) -> Any:  # noqa: ANN401
    return SimpleNamespace(device=torch.device(device))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    monkeypatch.setattr(memory_allocator, "_glibc", lambda: library)
    return library


@pytest.mark.parametrize("fails", [False, True])
def test_memory_is_kept_for_a_fit_and_returned_once(library: Library, fails: bool) -> None:
    callback = KeepFreedMemory()
    callback.on_train_start(TRAINER, model("cpu"))
    assert library.told == [(-4, 0), (-1, -1)]
    library.told.clear()
    for _ in range(2):
        if fails:
            callback.on_exception(TRAINER, model("cpu"), RuntimeError())
        else:
            callback.on_fit_end(TRAINER, model("cpu"))
    assert library.told == [(-4, 65536), (-1, 131072), (0,)]


def test_training_on_another_device_changes_nothing(library: Library) -> None:
    callback = KeepFreedMemory()
    callback.on_train_start(TRAINER, model("cuda"))
    callback.on_fit_end(TRAINER, model("cuda"))
    assert library.told == []


def test_other_c_libraries_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    callback = KeepFreedMemory()
    callback.on_train_start(TRAINER, model("cpu"))
    callback.on_fit_end(TRAINER, model("cpu"))
