"""What a checkpoint must hold beside model and optimiser for a resumed training to end as an uninterrupted one."""

import random
from itertools import chain
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback

_PATH = "image_path"


class ExactResume(Callback):
    """Save the state of the random generators and the split of the pictures in every checkpoint, and go on from them.

    Without them a resumed training would see the pictures in another order, and some of those that were held out. A
    checkpoint written at the end of an epoch or of its validation is gone on from exactly; one written between batches
    is not, for the order of the pictures that are left is not known.
    """

    def __init__(self) -> None:
        self._split: dict[str, list[str]] = {}
        self._unfinished_epoch: int | None = None
        self._resumed: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore what the checkpoint brought, before the first epoch is shuffled.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        datamodule = getattr(trainer, "datamodule", None)
        if self._resumed:
            _restore_split(datamodule, self._resumed["split"])
            _restore_random_state(self._resumed)
        self._split = _split(datamodule)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the random state once more after an epoch that the checkpoint had left to be closed.

        A checkpoint that is written when validation ends, before its epoch does, makes the trainer enter that epoch
        again to close it, which draws a random number for nothing.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        self._unfinished_epoch = trainer.current_epoch
        left_open = self._resumed.get("unfinished_epoch")
        if left_open is not None and trainer.current_epoch == left_open + 1:
            _restore_random_state(self._resumed)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch is over.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del trainer, pl_module
        self._unfinished_epoch = None

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps.

        Returns:
            Plain values and tensors, which load with ``weights_only=True``.
        """
        return {**_random_state(), "split": self._split, "unfinished_epoch": self._unfinished_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what a checkpoint brings until training starts.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self._resumed = state_dict


def _subsets(datamodule: Any) -> dict[str, Any]:  # noqa: ANN401
    named = {name: getattr(datamodule, name, None) for name in ("train_data", "val_data")}
    return {name: data for name, data in named.items() if _PATH in getattr(data, "samples", ())}


def _split(datamodule: Any) -> dict[str, list[str]]:  # noqa: ANN401
    """Paths of the pictures of each part, in order."""
    return {name: [str(path) for path in data.samples[_PATH]] for name, data in _subsets(datamodule).items()}


def _restore_split(datamodule: Any, split: dict[str, list[str]]) -> None:  # noqa: ANN401
    """Part the pictures as a checkpoint says, if they are the same pictures; others are left as they are."""
    now = _split(datamodule)
    if now == split or sorted(chain(*now.values())) != sorted(chain(*split.values())):
        return
    subsets = _subsets(datamodule)
    samples = pd.concat([data.samples for data in subsets.values()])
    samples.index = pd.Index(samples[_PATH].astype(str))
    for name, data in subsets.items():
        data.samples = samples.loc[split[name]].reset_index(drop=True)


def _random_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  the generator that user code shares
    key = numpy_state["state"]["key"].tolist()
    return {
        "torch": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
    }


def _restore_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    random.setstate(state["python"])
    numpy_state = state["numpy"]
    key = np.array(numpy_state["state"]["key"], dtype=np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})  # noqa: NPY002
