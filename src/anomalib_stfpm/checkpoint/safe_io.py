"""Read checkpoints without running code in them, with clear errors, and write them atomically."""

import copy
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from anomalib.engine.plugins import AnomalibCheckpointIO
from anomalib.utils.serialization import anomalib_safe_globals
from lightning.pytorch import Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from anomalib_stfpm_deploy import files

_LIGHTNINGS = ("state_dict", "pytorch-lightning_version")


SECONDS_BETWEEN = 1.0
"""Seconds between two writings of the same checkpoint during a training; a killed one loses no more than that."""


class SafeCheckpointIO(AnomalibCheckpointIO):
    """anomalib's checkpoint plugin with clear errors and atomic writes.

    On a GPU an epoch may take less time than the writing of its checkpoint. So while a trainer runs, a checkpoint that
    was written less than a second ago waits, and the newest one is written when the trainer ends, fails or is
    interrupted.

    Lightning writes to the system's temporary folder and moves the file. Where that folder is on another disk, moving
    is copying: killed meanwhile, or on a full disk, it leaves half a checkpoint in the place of a good one.

    Args:
        extra_safe_globals: See anomalib's ``AnomalibCheckpointIO``.
    """

    def __init__(self, extra_safe_globals: Any = None) -> None:  # noqa: ANN401  # as anomalib's
        super().__init__(extra_safe_globals)
        self._is_running = False
        self._written: dict[Path, float] = {}
        self._waiting: dict[Path, dict[str, Any]] = {}

    def start(self) -> None:
        """Let checkpoints wait until :meth:`teardown`."""
        self._is_running = True

    def teardown(self) -> None:
        """Write the checkpoints that wait."""
        self._is_running = False
        while self._waiting:
            path, checkpoint = self._waiting.popitem()
            self._write(checkpoint, path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, also one that waits."""
        self._waiting.pop(Path(path), None)
        super().remove_checkpoint(path)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = "cpu",  # noqa: ANN401  # whatever torch.load takes
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If it is damaged, holds more than tensors and plain values, or is no checkpoint.
        """
        if weights_only is False or is_remote(path):
            checkpoint: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only is not False)
            return checkpoint
        return read(path, map_location, self.extra_safe_globals)

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any | None = None,  # noqa: ANN401
    ) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written; the file is then as it was.
        """
        if storage_options is not None or "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        if self._is_running and time.monotonic() < self._written.get(Path(path), -math.inf) + SECONDS_BETWEEN:
            self._waiting[Path(path)] = copy.deepcopy(checkpoint)  # training goes on with these tensors
        else:
            self._write(checkpoint, Path(path))

    def _write(self, checkpoint: dict[str, Any], path: Path) -> None:
        self._waiting.pop(path, None)
        # In memory first, as Lightning does: torch.save would not say why a file cannot be written.
        written = io.BytesIO()
        torch.save(checkpoint, written)
        with files.replacing(path) as temporary:
            temporary.write_bytes(written.getbuffer())
        self._written[path] = time.monotonic()


def use_safe_checkpoint_io(trainer: Trainer) -> None:
    """Make a trainer use :class:`SafeCheckpointIO`, unless the user gave a plugin of their own."""
    given = trainer.strategy.checkpoint_io
    if type(given) in (AnomalibCheckpointIO, TorchCheckpointIO):
        trainer.strategy.checkpoint_io = SafeCheckpointIO(getattr(given, "extra_safe_globals", None))
    if isinstance(trainer.strategy.checkpoint_io, SafeCheckpointIO):
        trainer.strategy.checkpoint_io.start()


def is_remote(path: object) -> bool:
    """Say whether a checkpoint is a URL or a stream instead of a local file.

    Example:
        >>> is_remote("s3://models/model.ckpt"), is_remote("model.ckpt")
        (True, False)
    """
    return not isinstance(path, str | Path) or "://" in str(path)


def read(
    path: str | Path,
    map_location: Any = "cpu",  # noqa: ANN401  # whatever torch.load takes
    safe_globals: Sequence[Any] = (),
) -> dict[str, Any]:
    """Read a checkpoint of Lightning.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is damaged, holds anything else, or is no checkpoint.

    Example:
        >>> read("nothing.ckpt")
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'nothing.ckpt' is not a file: give the checkpoint of a trained model, such as model.ckpt.
    """
    if not Path(path).is_file():
        msg = f"'{path}' is not a file: give the checkpoint of a trained model, such as model.ckpt."
        raise FileNotFoundError(msg)
    with anomalib_safe_globals(extra=safe_globals):
        checkpoint = load_safely(path, "give a checkpoint as training wrote it", map_location)
    if not isinstance(checkpoint, dict) or not all(key in checkpoint for key in _LIGHTNINGS):
        msg = f"'{path}' is not a checkpoint: a file that training wrote has {' and '.join(_LIGHTNINGS)}."
        raise ValueError(msg)
    if not isinstance(checkpoint["state_dict"], Mapping):
        msg = f"'{path}' is not a checkpoint: its state_dict holds no named tensors."
        raise ValueError(msg)
    return checkpoint


def load_safely(
    path: str | Path,
    advice: str,
    map_location: Any = "cpu",  # noqa: ANN401  # whatever torch.load takes
) -> Any:  # noqa: ANN401
    """Read a file that torch has saved, without running any code in it.

    Raises:
        ValueError: If it is damaged, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:
        msg = (
            f"'{path}' is damaged or holds more than tensors and plain values, and is not read because that could run "
            f"code: {advice}."
        )
        raise ValueError(msg) from error
