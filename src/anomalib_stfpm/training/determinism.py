"""The same seed gives the same student on a GPU, too."""

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback


class SameConvolutions(Callback):
    """Let cuDNN compute convolutions during training only by algorithms that always give the same result."""

    def __init__(self) -> None:
        self._before: bool | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the algorithms."""
        del trainer
        if pl_module.device.type == "cuda":
            self._before, torch.backends.cudnn.deterministic = torch.backends.cudnn.deterministic, True

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the choice."""
        del trainer, pl_module
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore the choice also when training fails."""
        del trainer, pl_module, exception
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            torch.backends.cudnn.deterministic, self._before = self._before, None
