"""Rows of images come back unchanged and never exceed the budget."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from anomalib_stfpm.training.cache.byte_budget import ByteBudget
from anomalib_stfpm.training.cache.image_memory import ImageMemory, Rows

CPU = torch.device("cpu")
IMAGES = 5


def images(*numbers: int) -> dict[str, torch.Tensor]:
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    image = torch.stack([torch.rand(3, 4, 6, generator=generator) for generator in generators])
    mask = torch.stack([torch.rand(4, 6, generator=generator) > 0.5 for generator in generators])
    features = torch.stack([torch.rand(5, 2, 3, generator=generator) for generator in generators]).half()
    return {"image": image, "gt_mask": mask, "gt_label": torch.tensor(numbers) > 2, "layer1": features}


ROWS = Rows.pack(images(*range(IMAGES)))
EACH = ROWS.shape[1]


def memory_of(images_in_budget: float, folder: Path | None = None) -> ImageMemory:
    """A memory that all images have been written to, in two parts."""
    memory = ImageMemory(IMAGES, EACH, [ByteBudget(CPU, int(images_in_budget * EACH))], folder)
    memory.write(0, ROWS[:2])
    memory.write(2, ROWS[2:])
    return memory


def refuse(numbers: list[int]) -> NoReturn:
    pytest.fail(f"{numbers} should be stored")


def assert_read(memory: ImageMemory, *orders: Sequence[int]) -> None:
    for order in orders:
        assert torch.equal(memory.read(order, CPU, refuse), ROWS[list(order)])


def test_a_row_gives_the_tensors_of_its_image_with_the_channels_last() -> None:
    expected = images(3, 1)
    tensors = Rows(images(0)).unpack(ROWS[[3, 1]])
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == expected[name].dtype
        assert torch.equal(tensor, expected[name])
    assert tensors["image"].is_contiguous(memory_format=torch.channels_last)


def test_images_come_back_in_any_order() -> None:
    memory = memory_of(IMAGES)
    assert memory.images == IMAGES
    assert_read(memory, [2, 0, 3, 1, 0], [4])


def test_images_without_room_are_computed() -> None:
    budget = ByteBudget(CPU, 3 * EACH - 1)
    memory = ImageMemory(IMAGES, EACH, [budget])
    memory.write(0, ROWS)
    assert memory.images == 2
    assert budget.left == EACH - 1
    computed: list[int] = []

    def compute(numbers: list[int]) -> torch.Tensor:
        computed.extend(numbers)
        return ROWS[numbers]

    assert torch.equal(memory.read([4, 1, 2, 0], CPU, compute), ROWS[[4, 1, 2, 0]])
    assert computed == [4, 2]


def test_the_first_images_are_in_the_first_memory() -> None:
    budgets = [ByteBudget(CPU, 2 * EACH), ByteBudget(CPU, 9 * EACH)]
    memory = ImageMemory(IMAGES, EACH, budgets)
    assert [budget.left for budget in budgets] == [0, 6 * EACH]
    memory.write(0, ROWS)
    assert_read(memory, [4, 0, 2, 1, 3], [1, 0], [3])


@pytest.mark.parametrize("images_in_budget", [0, 2])
def test_images_beyond_the_budget_go_to_a_file_that_is_deleted(images_in_budget: int, tmp_path: Path) -> None:
    memory = memory_of(images_in_budget, tmp_path)
    assert memory.images == IMAGES
    assert_read(memory, [0, 1, 2, 3, 4], [3, 4], [0])
    memory.forget()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve disk space")
def test_a_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_space(*args: object) -> NoReturn:
        del args
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse_space)
    with pytest.raises(OSError, match=r"has no room for 0\.0 GB of images to remember .*No space left"):
        memory_of(0, tmp_path)
    assert list(tmp_path.iterdir()) == []
