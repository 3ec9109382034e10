"""Tensors of images, a row each: on the training device, then in main memory, then in a memory-mapped file."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from anomalib_stfpm.training.cache.byte_budget import ByteBudget

Tensors = Mapping[str, torch.Tensor]
"""Tensors of N images by name, each of shape ``(N, ...)``."""


class ImageMemory:
    """Room for the tensors of images: for the first images in the first memory, and so on.

    The file is for images that exceed the budgets. Linux and macOS delete it as soon as it is mapped, Windows when
    :meth:`forget` is called.

    Args:
        images: Number of images.
        example: Tensors that say the names, shapes and types of those of an image.
        budgets: Bytes that may be used, and are taken.
        folder: Folder of the file; ``None`` for no file.

    Attributes:
        images: Number of images that there is room for.

    Raises:
        OSError: If the file cannot be made.
    """

    def __init__(
        self, images: int, example: Tensors, budgets: Sequence[ByteBudget], folder: Path | None = None
    ) -> None:
        self.images = 0
        self._parts: list[tuple[range, dict[str, torch.Tensor]]] = []
        self._file: Path | None = None
        self._shapes = {name: _channels_last(tensor).shape[1:] for name, tensor in example.items()}
        self._types = {name: tensor.dtype for name, tensor in example.items()}
        each = sum(tensor[:1].nbytes for tensor in example.values())
        for budget in budgets:
            number = budget.take(each, images - self.images)
            shapes = {name: (number, *shape) for name, shape in self._shapes.items()}
            self._add(
                number, {k: torch.empty(s, dtype=self._types[k], device=budget.device) for k, s in shapes.items()}
            )
        if folder is not None and images > self.images:
            self._add(images - self.images, self._mapped(images - self.images, each, folder))

    def write(self, first: int, tensors: Tensors) -> None:
        """Store the tensors of the images from number ``first`` on, as far as there is room."""
        for part, stored in self._parts:
            for name, tensor in tensors.items():
                start, stop = max(first, part.start), min(first + len(tensor), part.stop)
                if start < stop:
                    values = _channels_last(tensor.detach()[start - first : stop - first])
                    stored[name][start - part.start : stop - part.start] = values

    def read(self, numbers: Sequence[int], device: torch.device) -> dict[str, torch.Tensor]:
        """Gather the tensors of images on a device, without waiting for it; those of four dims in channels_last."""
        found = []
        for part, stored in self._parts:
            positions = [position for position, number in enumerate(numbers) if number in part]
            if positions:
                rows = torch.tensor([numbers[position] - part.start for position in positions])
                found.append((positions, _gathered(stored, rows, device)))
        return merged(len(numbers), found)

    def forget(self) -> None:
        """Remove all tensors and the file."""
        self._parts.clear()
        if self._file is not None:
            self._file.unlink(missing_ok=True)

    def _add(self, number: int, tensors: dict[str, torch.Tensor]) -> None:
        if number:
            self._parts.append((range(self.images, self.images + number), tensors))
            self.images += number

    def _mapped(self, images: int, each: int, folder: Path) -> dict[str, torch.Tensor]:
        size = images * each
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
            self._file = None
        tensors, start = {}, 0
        # The widest types first, so that all tensors are aligned.
        for key in sorted(self._types, key=lambda key: -self._types[key].itemsize):
            shape = torch.Size((images, *self._shapes[key]))
            stop = start + shape.numel() * self._types[key].itemsize
            tensors[key] = mapped[start:stop].view(self._types[key]).view(shape)
            start = stop
        return tensors


def merged(number: int, parts: Sequence[tuple[list[int], dict[str, torch.Tensor]]]) -> dict[str, torch.Tensor]:
    """Merge the tensors of parts of a batch of ``number`` images, given with the positions of their images in it."""
    if len(parts) == 1:
        return parts[0][1]
    tensors = {}
    for name, values in parts[0][1].items():
        whole = values.new_empty((number, *_channels_last(values).shape[1:]))
        tensors[name] = whole.permute(0, 3, 1, 2) if values.ndim == 4 else whole
        for positions, part in parts:
            tensors[name][positions] = part[name]
    return tensors


def _gathered(stored: dict[str, torch.Tensor], rows: torch.Tensor, device: torch.device) -> dict[str, torch.Tensor]:
    tensors = {}
    is_far = device.type == "cuda"
    for name, store in stored.items():
        if store.device.type != "cpu":
            rows = rows.pin_memory().to(store.device, non_blocking=True) if rows.device != store.device else rows
            values = store.index_select(0, rows)
        else:
            values = store.new_empty((len(rows), *store.shape[1:]), pin_memory=is_far)
            torch.index_select(store, 0, rows, out=values)
        values = values.to(device, non_blocking=is_far)
        tensors[name] = values.permute(0, 3, 1, 2) if values.ndim == 4 else values
    return tensors


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
