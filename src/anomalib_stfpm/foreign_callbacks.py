"""Callbacks that neither anomalib, Lightning nor this package has made, of which nothing can be known beforehand."""

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

_KNOWN_PACKAGES = ("anomalib", "anomalib_stfpm", "lightning", "pytorch_lightning")


def foreign_callback(trainer: pl.Trainer, *hooks: str) -> str | None:
    """Find a foreign callback that has any of some hooks.

    Args:
        trainer: The trainer.
        hooks: Names of hooks.

    Returns:
        The name of its class; ``None`` if there is none.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        is_foreign = type(callback).__module__.partition(".")[0] not in _KNOWN_PACKAGES
        if is_foreign and any(getattr(type(callback), hook) is not getattr(Callback, hook) for hook in hooks):
            return type(callback).__name__
    return None
