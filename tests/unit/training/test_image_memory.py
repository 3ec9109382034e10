"""Cached tensors come back unchanged and never exceed the budget."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from anomalib_stfpm.training.cache.byte_budget import ByteBudget
from anomalib_stfpm.training.cache.image_memory import ImageMemory

EACH = 4 * (3 * 4 * 6) + 4 * 6 + 2 * (5 * 2 * 3)  # bytes of one of the images below


def images(*numbers: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    image = torch.stack([torch.rand(3, 4, 6, generator=generator) for generator in generators])
    mask = torch.stack([torch.rand(4, 6, generator=generator) > 0.5 for generator in generators])
    features = torch.stack([torch.rand(5, 2, 3, generator=generator) for generator in generators]).half()
    return [f"{number}.png" for number in numbers], {"image": image, "mask": mask, "features": features}


def bytes_in_memory(memory: ImageMemory) -> int:
    return sum(tensor.nbytes for tensor in memory._in_memory.values())


def assert_recalls(memory: ImageMemory, *numbers: int) -> None:
    paths, expected = images(*numbers)
    for name, tensor in expected.items():
        assert torch.equal(memory.recall(name, paths), tensor)


def test_images_come_back_in_any_order() -> None:
    memory = ImageMemory(4, ByteBudget(4 * EACH))
    assert memory.remember(*images(0, 1)) == ["0.png", "1.png"]
    assert memory.remember(*images(3, 2)) == ["3.png", "2.png"]
    assert memory.is_complete
    assert_recalls(memory, 2, 0, 3, 1, 0)


def test_images_come_back_with_the_channels_last() -> None:
    memory = ImageMemory(2, ByteBudget(2 * EACH))
    memory.remember(*images(0, 1))
    assert memory.recall("image", ["1.png", "0.png"]).is_contiguous(memory_format=torch.channels_last)


def test_an_image_is_stored_once() -> None:
    memory = ImageMemory(3, ByteBudget(3 * EACH))
    memory.remember(*images(0))
    paths, others = images(7, 1, 1)
    assert memory.remember(["0.png", *paths[1:]], others) == ["1.png"]
    assert_recalls(memory, 0, 1)


def test_stored_images_stay_within_the_budget() -> None:
    budget = ByteBudget(3 * EACH - 1)
    memory = ImageMemory(5, budget)
    assert memory.remember(*images(0, 1, 2, 3, 4)) == ["0.png", "1.png"]
    assert bytes_in_memory(memory) == 2 * EACH
    assert budget.left == EACH - 1
    assert not memory.is_complete
    assert "2.png" not in memory
    assert_recalls(memory, 1, 0)


def test_images_beyond_the_budget_go_to_a_file_that_is_deleted(tmp_path: Path) -> None:
    memory = ImageMemory(5, ByteBudget(2 * EACH), tmp_path)
    memory.remember(*images(4))
    memory.remember(*images(3, 0, 1))
    memory.remember(*images(2))
    assert memory.is_complete
    assert bytes_in_memory(memory) == 2 * EACH
    assert_recalls(memory, 0, 1, 2, 3, 4)
    assert_recalls(memory, 3, 4)
    memory.forget()
    assert list(tmp_path.iterdir()) == []


def test_with_a_budget_of_zero_all_images_go_to_the_file(tmp_path: Path) -> None:
    memory = ImageMemory(2, ByteBudget(0), tmp_path)
    memory.remember(*images(0, 1))
    assert bytes_in_memory(memory) == 0
    assert_recalls(memory, 1, 0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve disk space")
def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> NoReturn:
        del args
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    memory = ImageMemory(2, ByteBudget(0), tmp_path)
    with pytest.raises(OSError, match=r"has no room for 0\.0 GB of images to remember .*No space left"):
        memory.remember(*images(0, 1))
    assert list(tmp_path.iterdir()) == []


def test_forgotten_images_can_be_stored_again() -> None:
    memory = ImageMemory(1, ByteBudget(2 * EACH))
    memory.remember(*images(0))
    memory.forget()
    assert "0.png" not in memory
    other: Mapping[str, torch.Tensor] = images(1)[1]
    memory.remember(["0.png"], other)
    assert torch.equal(memory.recall("image", ["0.png"]), other["image"])
