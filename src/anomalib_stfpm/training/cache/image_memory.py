"""Images as rows of bytes: on the training device, then in main memory, then in a memory-mapped file."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.nn import functional

from anomalib_stfpm.training.cache.byte_budget import ByteBudget

_ALIGNMENT = 8  # bytes, so that a row holds numbers of any type


class Rows:
    """Turns the tensors of images into a row of bytes for each, and back.

    Args:
        example: Tensors by name, each of shape ``(N, ...)``; the other images have the same names, shapes and types.
    """

    def __init__(self, example: Mapping[str, torch.Tensor]) -> None:
        self._fields = [(name, _channels_last(one).shape[1:], one.dtype) for name, one in example.items()]

    @staticmethod
    def pack(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the bytes of N images, of shape ``(N, bytes)``."""
        fields = [_channels_last(one).reshape(len(one), -1).contiguous().view(torch.uint8) for one in tensors.values()]
        return torch.cat([functional.pad(field, (0, -field.shape[1] % _ALIGNMENT)) for field in fields], dim=1)

    def unpack(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the tensors of N images; those of four dimensions have the channels last in memory."""
        tensors, start = {}, 0
        for name, shape, dtype in self._fields:
            size = shape.numel() * dtype.itemsize
            values = rows[:, start : start + size].contiguous().view(dtype).reshape(len(rows), *shape)
            tensors[name] = values.permute(0, 3, 1, 2) if values.ndim == 4 else values
            start += size + -size % _ALIGNMENT
        return tensors


class ImageMemory:
    """Room for the rows of the first images of a dataset, the very first ones in the first memory.

    The file is for images that exceed the budgets. Linux and macOS delete it as soon as it is mapped, Windows when
    :meth:`forget` is called.

    Args:
        images: Number of images.
        each: Bytes of a row.
        budgets: Bytes that may be used, and are taken.
        folder: Folder of the file; ``None`` for no file.

    Attributes:
        images: Number of images that there is room for.

    Raises:
        OSError: If the file cannot be made.
    """

    def __init__(self, images: int, each: int, budgets: Sequence[ByteBudget], folder: Path | None = None) -> None:
        self.images = 0
        self._parts: list[tuple[range, torch.Tensor]] = []
        self._file: Path | None = None
        for budget in budgets:
            number = budget.take(each, images - self.images)
            self._add(torch.empty((number, each), dtype=torch.uint8, device=budget.device))
        if folder is not None and images > self.images:
            self._add(self._mapped((images - self.images) * each, folder).view(-1, each))

    def write(self, first: int, rows: torch.Tensor) -> None:
        """Store the rows of the images from number ``first`` on, as far as there is room."""
        for numbers, stored in self._parts:
            start, stop = max(first, numbers.start), min(first + len(rows), numbers.stop)
            if start < stop:
                stored[start - numbers.start : stop - numbers.start] = rows[start - first : stop - first]

    def read(
        self, numbers: Sequence[int], device: torch.device, compute: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """Gather rows on a device, without waiting for it; ``compute`` returns the rows that are not stored."""
        found = []
        for part, stored in [*self._parts, (range(self.images, max(numbers) + 1), None)]:
            positions = [position for position, number in enumerate(numbers) if number in part]
            inside = [numbers[position] for position in positions]
            if stored is not None and inside:
                found.append((positions, _gathered(stored, [number - part.start for number in inside], device)))
            elif inside:
                found.append((positions, compute(inside)))
        if len(found) == 1:
            return found[0][1]
        rows = found[0][1].new_empty((len(numbers), found[0][1].shape[1]))
        for positions, values in found:
            rows[positions] = values
        return rows

    def forget(self) -> None:
        """Remove all rows and the file."""
        self._parts.clear()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _add(self, rows: torch.Tensor) -> None:
        self._parts.append((range(self.images, self.images + len(rows)), rows))
        self.images += len(rows)

    def _mapped(self, size: int, folder: Path) -> torch.Tensor:
        descriptor, name = tempfile.mkstemp(prefix="anomalib-stfpm-", suffix=".cache", dir=folder)
        self._file = Path(name)
        try:
            _reserve(descriptor, size)
            mapped = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            self.forget()
            msg = f"'{folder}' has no room for {size / 1e9:.1f} GB of images to remember ({error})."
            raise OSError(msg) from error
        finally:
            os.close(descriptor)
        if os.name == "posix":
            self._file.unlink()  # so that a killed process leaves no file
        return mapped


def _gathered(stored: torch.Tensor, numbers: list[int], device: torch.device) -> torch.Tensor:
    """Gather rows; what goes to a GPU is copied from pinned memory, which the GPU reads while Python goes on."""
    is_far = device.type == "cuda"
    index = torch.tensor(numbers, pin_memory=is_far).to(stored.device, non_blocking=True)
    rows = stored.new_empty((len(numbers), stored.shape[1]), pin_memory=is_far and stored.device.type == "cpu")
    return torch.index_select(stored, 0, index, out=rows).to(device, non_blocking=is_far)


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _reserve(descriptor: int, size: int) -> None:
    """Reserve disk space now: a full disk would kill a process that writes to a mapped file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(2**20)
    for _ in range(size // len(block) + 1):
        os.write(descriptor, block)
