"""What has been computed of each picture of a dataset, kept by its path within a byte budget."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from .byte_budget import ByteBudget


class PictureMemory:
    """Tensors of pictures, one row a picture, in memory and, beyond that, in a memory-mapped file.

    What a picture is made of (image, mask, features) is given when the first ones are remembered and is the same for
    all. A picture is remembered whole or not at all; those beyond the budget are not, unless there is a folder to put
    them. The file is deleted with the memory, on Linux and macOS already when it is made.

    Args:
        pictures: Number of pictures that there are to remember.
        budget: The bytes that may be used, of which the memory takes its part when the first picture is remembered.
        folder: Where to put what is beyond the budget; ``None`` for nowhere.
    """

    def __init__(self, pictures: int, budget: ByteBudget, folder: Path | None = None) -> None:
        self._pictures = pictures
        self._budget = budget
        self._folder = folder
        self._rows: dict[str, int] = {}
        self._in_memory: dict[str, torch.Tensor] = {}
        self._in_file: dict[str, torch.Tensor] = {}
        self._file: Path | None = None
        self._capacity: int | None = None

    def __contains__(self, path: str) -> bool:
        """Say whether a picture is remembered."""
        return path in self._rows

    def __len__(self) -> int:
        """Return the number of pictures that are remembered."""
        return len(self._rows)

    @property
    def is_complete(self) -> bool:
        """Whether every picture is remembered."""
        return len(self) == self._pictures

    @property
    def bytes_in_memory(self) -> int:
        """Number of bytes reserved in memory."""
        return sum(store.nbytes for store in self._in_memory.values())

    def remember(self, paths: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """Remember those of some pictures that are not yet, as far as there is room.

        Args:
            paths: Their paths.
            tensors: Tensors by name with one row a picture, ``(N, ...)``. Those of four dimensions are kept with the
                channels last.

        Returns:
            The paths that are new.

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
            split = max(0, self._rows_in_memory(name) - first)
            self._in_memory[name][first : first + len(values[:split])] = values[:split]
            if split < len(values):
                start = max(0, first - self._rows_in_memory(name))
                self._in_file[name][start : start + len(values[split:])] = values[split:]
        self._rows.update(new)
        return list(new)

    def recall(self, name: str, paths: Sequence[str]) -> torch.Tensor:
        """Return what is remembered of some pictures.

        Args:
            name: Name of the tensor.
            paths: Paths of remembered pictures.

        Returns:
            Tensor with one row a picture, ``(N, ...)``; of four dimensions, in the memory format ``channels_last``.
        """
        rows = torch.tensor([self._rows[path] for path in paths], dtype=torch.long)
        split = self._rows_in_memory(name)
        in_file = rows >= split
        if not in_file.any():
            values = self._in_memory[name].index_select(0, rows)
        else:
            store = self._in_file[name]
            values = store.new_empty((len(rows), *store.shape[1:]))
            values[in_file] = store.index_select(0, rows[in_file] - split)
            values[~in_file] = self._in_memory[name].index_select(0, rows[~in_file])
        return _channels_first(values)

    def _rows_in_memory(self, name: str) -> int:
        return len(self._in_memory[name])

    def _allocate(self, tensors: Mapping[str, torch.Tensor]) -> None:
        shapes = {name: _channels_last(tensor).shape[1:] for name, tensor in tensors.items()}
        each = sum(tensor[:1].nbytes for tensor in tensors.values())
        in_memory = self._budget.take(each, self._pictures)
        beyond = self._pictures - in_memory if self._folder is not None else 0
        for name, tensor in tensors.items():
            self._in_memory[name] = torch.empty((in_memory, *shapes[name]), dtype=tensor.dtype)
        if beyond:
            self._map_file(each * beyond, {name: (beyond, *shape) for name, shape in shapes.items()}, tensors)
        self._capacity = in_memory + beyond

    def _map_file(self, size: int, shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, torch.Tensor]) -> None:
        descriptor, name = tempfile.mkstemp(prefix="anomalib-stfpm-", suffix=".cache", dir=self._folder)
        self._file = Path(name)
        try:
            _reserve(descriptor, size)
            mapped = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        except (OSError, RuntimeError) as error:
            self.forget()
            msg = f"'{self._folder}' has no room for {size / 1e9:.1f} GB of pictures to remember ({error})."
            raise OSError(msg) from error
        finally:
            os.close(descriptor)
        if os.name == "posix":
            self._file.unlink()  # nothing is left behind, however this process ends
            self._file = None
        start = 0
        # The widest numbers first, so that all are aligned.
        for name in sorted(shapes, key=lambda name: -tensors[name].element_size()):
            count = torch.Size(shapes[name]).numel() * tensors[name].element_size()
            self._in_file[name] = mapped[start : start + count].view(tensors[name].dtype).view(shapes[name])
            start += count

    def forget(self) -> None:
        """Forget everything, and delete the file."""
        self._rows.clear()
        self._in_memory.clear()
        self._in_file.clear()
        self._capacity = None
        if self._file is not None:
            self._file.unlink(missing_ok=True)
            self._file = None


def _channels_last(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 2, 3, 1) if tensor.ndim == 4 else tensor


def _channels_first(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor


def _reserve(descriptor: int, size: int) -> None:
    """Take the room now: a mapped file that finds a full disk later would kill the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    block = bytes(2**20)
    for _ in range(size // len(block) + 1):
        os.write(descriptor, block)
