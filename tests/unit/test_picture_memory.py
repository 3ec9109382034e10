"""What is remembered of a picture comes back as it was, and never takes more than the budget."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from anomalib_stfpm.byte_budget import ByteBudget
from anomalib_stfpm.picture_memory import PictureMemory

EACH = 4 * (3 * 4 * 6) + 4 * 6 + 2 * (5 * 2 * 3)  # bytes of one of the pictures below


def pictures(*numbers: int) -> tuple[list[str], dict[str, torch.Tensor]]:
    generators = [torch.Generator().manual_seed(number) for number in numbers]
    image = torch.stack([torch.rand(3, 4, 6, generator=generator) for generator in generators])
    mask = torch.stack([torch.rand(4, 6, generator=generator) > 0.5 for generator in generators])
    features = torch.stack([torch.rand(5, 2, 3, generator=generator) for generator in generators]).half()
    return [f"{number}.png" for number in numbers], {"image": image, "mask": mask, "features": features}


def assert_recalls(memory: PictureMemory, *numbers: int) -> None:
    paths, expected = pictures(*numbers)
    for name, tensor in expected.items():
        assert torch.equal(memory.recall(name, paths), tensor)


def test_pictures_come_back_in_any_order() -> None:
    memory = PictureMemory(4, ByteBudget(4 * EACH))
    assert memory.remember(*pictures(0, 1)) == ["0.png", "1.png"]
    assert memory.remember(*pictures(3, 2)) == ["3.png", "2.png"]
    assert memory.is_complete
    assert_recalls(memory, 2, 0, 3, 1, 0)


def test_images_come_back_with_the_channels_last() -> None:
    memory = PictureMemory(2, ByteBudget(2 * EACH))
    memory.remember(*pictures(0, 1))
    assert memory.recall("image", ["1.png", "0.png"]).is_contiguous(memory_format=torch.channels_last)


def test_a_picture_is_remembered_once() -> None:
    memory = PictureMemory(3, ByteBudget(3 * EACH))
    memory.remember(*pictures(0))
    paths, others = pictures(7, 1, 1)
    assert memory.remember(["0.png", *paths[1:]], others) == ["1.png"]
    assert_recalls(memory, 0, 1)


def test_no_more_is_remembered_than_the_budget_allows() -> None:
    budget = ByteBudget(3 * EACH - 1)
    memory = PictureMemory(5, budget)
    assert memory.remember(*pictures(0, 1, 2, 3, 4)) == ["0.png", "1.png"]
    assert memory.bytes_in_memory == 2 * EACH
    assert budget.left == EACH - 1
    assert not memory.is_complete
    assert "2.png" not in memory
    assert_recalls(memory, 1, 0)


def test_the_rest_goes_to_a_file_that_leaves_nothing_behind(tmp_path: Path) -> None:
    memory = PictureMemory(5, ByteBudget(2 * EACH), tmp_path)
    memory.remember(*pictures(4))
    memory.remember(*pictures(3, 0, 1))
    memory.remember(*pictures(2))
    assert memory.is_complete
    assert memory.bytes_in_memory == 2 * EACH
    assert_recalls(memory, 0, 1, 2, 3, 4)
    assert_recalls(memory, 3, 4)
    memory.forget()
    assert list(tmp_path.iterdir()) == []


def test_without_memory_all_goes_to_the_file(tmp_path: Path) -> None:
    memory = PictureMemory(2, ByteBudget(0), tmp_path)
    memory.remember(*pictures(0, 1))
    assert memory.bytes_in_memory == 0
    assert_recalls(memory, 1, 0)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room")
def test_a_full_disk_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> NoReturn:
        del args
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    memory = PictureMemory(2, ByteBudget(0), tmp_path)
    with pytest.raises(OSError, match=r"has no room for 0\.0 GB of pictures to remember .*No space left"):
        memory.remember(*pictures(0, 1))
    assert list(tmp_path.iterdir()) == []


def test_what_is_forgotten_can_be_remembered_anew() -> None:
    memory = PictureMemory(1, ByteBudget(2 * EACH))
    memory.remember(*pictures(0))
    memory.forget()
    assert len(memory) == 0
    other: Mapping[str, torch.Tensor] = pictures(1)[1]
    memory.remember(["0.png"], other)
    assert torch.equal(memory.recall("image", ["0.png"]), other["image"])
