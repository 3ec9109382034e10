"""What a callback does when a fit is over, however it ends."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback


class FitEnd(Callback):
    """A callback that puts back at the end of a fit what it has changed for it, also where training fails."""

    def put_back(self, trainer: pl.Trainer) -> None:
        """Put back what was changed. May be called where nothing was, and more than once.

        Args:
            trainer: The trainer.
        """
        raise NotImplementedError

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put back what was changed.

        Args:
            trainer: The trainer.
            pl_module: Not used.
        """
        del pl_module
        self.put_back(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Put back what was changed: after a failure there is no end of the fit.

        Args:
            trainer: The trainer.
            pl_module: Not used.
            exception: Not used.
        """
        del pl_module, exception
        self.put_back(trainer)
