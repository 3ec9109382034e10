"""Store the tensors of images by path, in memory and in a memory-mapped file."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from anomalib_stfpm.training.cache.byte_budget import ByteBudget


class ImageMemory:
    """Tensors of images, one row for each image: in memory first, then in a memory-mapped file.

    The first stored images determine the names, shapes and types of the tensors. All tensors of an image are stored,
    or none. Images that exceed the budget go to the file, or are not stored if there is no folder for it. Linux and
    macOS delete the file as soon as it is mapped, Windows when :meth:`forget` is called.

    Args:
        images: Number of images in the dataset.
        budget: Bytes of memory that may be used; room is reserved when the first image is stored.
        folder: Folder of the file; ``None`` for no file.
    """

    def __init__(self, images: int, budget: ByteBudget, folder: Path | None = None) -> None:
        self._images = images
        self._budget = budget
        self._folder = folder
        self._rows: dict[str, int] = {}
        self._in_memory: dict[str, torch.Tensor] = {}
        self._in_file: dict[str, torch.Tensor] = {}
        self._file: Path | None = None
        self._capacity: int | None = None

    def __contains__(self, path: str) -> bool:
        """Return whether an image is stored."""
        return path in self._rows

    @property
    def is_complete(self) -> bool:
        """Whether every image is stored."""
        return len(self._rows) == self._images

    def remember(self, paths: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Store new images while there is room, and return their paths.

        Args:
            paths: Paths of N images.
            tensors: Tensors of shape ``(N, ...)`` by name. Those of four dimensions are stored channels last.

        Raises:
            OSError: If the file cannot be made.
        """
        if self._capacity is None:
            self._allocate(tensors)
        positions: list[int] = []
        new: dict[str, int] = {}
        for position, path in enumerate(paths):
            row = len(self._rows) + len(new)
            if path not in self._rows and path not in new and row < (self._capacity or 0):
                new[path] = row
                positions.append(position)
        if not new:
            return []
        first = len(self._rows)
        for name, tensor in tensors.items():
            values = _channels_last(tensor.detach()[positions].cpu())
            rows_in_memory = len(self._in_memory[name])
            split = max(0, rows_in_memory - first)
            self._in_memory[name][first : first + len(values[:split])] = values[:split]
            if split < len(values):
                start = max(0, first - rows_in_memory)
                self._in_file[name][start : start + len(values[split:])] = values[split:]
        self._rows.update(new)
        return list(new)

    def recall(self, name: str, paths: Sequence[str]) -> torch.Tensor:
        """Return a tensor of stored images, of shape ``(N, ...)``; of four dimensions, in ``channels_last`` format."""
        rows = torch.tensor([self._rows[path] for path in paths], dtype=torch.long)
        split = len(self._in_memory[name])
        in_file = rows >= split
        if not in_file.any():
            values = self._in_memory[name].index_select(0, rows)
        else:
            store = self._in_file[name]
            values = store.new_empty((len(rows), *store.shape[1:]))
            values[in_file] = store.index_select(0, rows[in_file] - split)
            values[~in_file] = self._in_memory[name].index_select(0, rows[~in_file])
        return values.permute(0, 3, 1, 2) if values.ndim == 4 else values

    def forget(self) -> None:
        """Remove all images and the file."""
        self._rows.clear()
        self._in_memory.clear()
        self._in_file.clear()
        self._capacity = None
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None

    def _allocate(self, tensors: Mapping[str, torch.Tensor]) -> None:
        shapes = {name: _channels_last(tensor).shape[1:] for name, tensor in tensors.items()}
        each = sum(tensor[:1].nbytes for tensor in tensors.values())
        in_memory = self._budget.take(each, self._images)
        in_file = self._images - in_memory if self._folder is not None else 0
        for name, tensor in tensors.items():
            self._in_memory[name] = torch.empty((in_memory, *shapes[name]), dtype=tensor.dtype)
        if in_file:
            self._map_file(each * in_file, {name: (in_file, *shape) for name, shape in shapes.items()}, tensors)
        self._capacity = in_memory + in_file

    def _map_file(self, size: int, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, torch.Tensor]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="anomalib-stfpm-", suffix=".cache", dir=self._folder)
        self._file = Path(name)
        try:
            _reserve(descriptor, size)
            mapped = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            self.forget()
            msg = f"'{self._folder}' has no room for {size / 1e9:.1f} GB of images to remember ({error})."
            raise OSError(msg) from error
        finally:
            os.close(descriptor)
        if os.name == "posix":
            self._file.unlink()  # so that a killed process leaves no file
            self._file = None
        start = 0
        # The widest types first, so that all tensors are aligned.
        for name in sorted(shapes, key=lambda name: -tensors[name].element_size()):
            count = torch.Size(shapes[name]).numel() * tensors[name].element_size()
            self._in_file[name] = mapped[start : start + count].view(tensors[name].dtype).view(shapes[name])
            start += count


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
