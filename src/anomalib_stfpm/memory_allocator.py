"""Keep the memory that one training step has freed for the next one."""

import ctypes
import platform
from typing import Any

import lightning.pytorch as pl

from .fit_end import FitEnd

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_NEVER, _NONE = -1, 0
_DEFAULT_TRIM_THRESHOLD, _DEFAULT_MMAP_MAX = 128 * 1024, 65536


class KeepFreedMemory(FitEnd):
    """Let the C library keep freed memory while a model is trained on a CPU, instead of returning it to the system.

    Every training step needs the same gigabytes for features and gradients. glibc gives large blocks back as soon as
    they are freed, and the system then clears and maps them anew, page by page, in the next step: up to half of a
    step's time. Does nothing with another C library.
    """

    def __init__(self) -> None:
        self._is_on = False

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start to keep freed memory.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del trainer
        library = _glibc()
        if library is not None and pl_module.device.type == "cpu":
            library.mallopt(_MMAP_MAX, _NONE)
            library.mallopt(_TRIM_THRESHOLD, _NEVER)
            self._is_on = True

    def put_back(self, trainer: pl.Trainer) -> None:
        """Return freed memory to the system again.

        Args:
            trainer: Not used.
        """
        del trainer
        if self._is_on:
            library = _glibc()
            library.mallopt(_MMAP_MAX, _DEFAULT_MMAP_MAX)
            library.mallopt(_TRIM_THRESHOLD, _DEFAULT_TRIM_THRESHOLD)
            library.malloc_trim(0)
            self._is_on = False


def _glibc() -> Any:  # noqa: ANN401
    return ctypes.CDLL(None) if platform.libc_ver()[0] == "glibc" else None
