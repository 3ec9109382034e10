"""Reuse the memory that one training step freed in the next step."""

import ctypes
import platform
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_NEVER, _NONE = -1, 0
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


class KeepFreedMemory(Callback):
    """Let glibc keep freed memory during training on a CPU instead of returning it to the system.

    Every training step needs the same gigabytes for features and gradients. By default glibc returns large blocks at
    once, and the system clears and maps them again in the next step, which takes up to half of a step's time. Does
    nothing with another C library.
    """

    def __init__(self) -> None:
        self._is_on = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to keep freed memory, once the cache is filled: what decoding frees is of no use in training."""
        del trainer
        library = _glibc()
        if library is not None and pl_module.device.type == "cpu":
            library.mallopt(_MMAP_MAX, _NONE)
            library.mallopt(_TRIM_THRESHOLD, _NEVER)
            self._is_on = True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Return freed memory to the system again."""
        del trainer, pl_module
        self._restore_defaults()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Return freed memory to the system also when training fails."""
        del trainer, pl_module, exception
        self._restore_defaults()

    def _restore_defaults(self) -> None:
        if self._is_on:
            library = _glibc()
            library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            library.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
            library.malloc_trim(0)
            self._is_on = False


def _glibc() -> Any:  # noqa: ANN401
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
