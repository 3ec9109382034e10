"""Resume a training so that it ends as an uninterrupted one would."""

import random
import shutil
from itertools import chain
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from anomalib_stfpm_deploy import files

_PATH = "image_path"


class ExactResume(Callback):
    """Save the random state and the split of the images in every checkpoint, and restore them.

    Without them a resumed training would see the images in another order and train on held-out ones. Resuming is exact
    from a checkpoint written at the end of an epoch or of its validation. A checkpoint written between batches does
    not hold the order of the remaining images.

    A resumed training writes to a new folder, which anomalib calls ``latest``. The checkpoint is copied there at once,
    so that a training killed in its first epoch can be resumed from it too.
    """

    def __init__(self) -> None:
        self._split: dict[str, list[str]] = {}
        self._unfinished_epoch: int | None = None
        self._resumed: dict[str, Any] = {}

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore split and random state before the first epoch is shuffled."""
        del pl_module
        datamodule = getattr(trainer, "datamodule", None)
        if self._resumed:
            _restore_split(datamodule, self._resumed["split"])
            _restore_random_state(self._resumed)
        self._split = _split(datamodule)
        _copy_checkpoint_to_new_folder(trainer)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the random state again after an unfinished epoch.

        From a checkpoint written after validation but before its epoch ended, the trainer enters that epoch again to
        finish it, which draws a random number.
        """
        del pl_module
        self._unfinished_epoch = trainer.current_epoch
        unfinished = self._resumed.get("unfinished_epoch")
        if unfinished is not None and trainer.current_epoch == unfinished + 1:
            _restore_random_state(self._resumed)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch is finished."""
        del trainer, pl_module
        self._unfinished_epoch = None

    def state_dict(self) -> dict[str, Any]:
        """Return plain values and tensors, which load with ``weights_only=True``."""
        return {**_random_state(), "split": self._split, "unfinished_epoch": self._unfinished_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Store the checkpoint's state until training starts."""
        self._resumed = state_dict


def _copy_checkpoint_to_new_folder(trainer: pl.Trainer) -> None:
    callback = trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or trainer.ckpt_path is None:
        return
    source, target = Path(trainer.ckpt_path), Path(callback.format_checkpoint_name({}))
    if source.is_file() and source.name == target.name and source.parent.resolve() != target.parent.resolve():
        if trainer.is_global_zero:
            with files.replacing(target) as temporary:
                shutil.copyfile(source, temporary)
        callback.best_model_path = str(target)  # so that the next checkpoint replaces it instead of adding a version


def _subsets(datamodule: Any) -> dict[str, Any]:  # noqa: ANN401
    named = {name: getattr(datamodule, name, None) for name in ("train_data", "val_data")}
    return {name: data for name, data in named.items() if _PATH in getattr(data, "samples", ())}


def _split(datamodule: Any) -> dict[str, list[str]]:  # noqa: ANN401
    """Return the ordered image paths of training and validation."""
    return {name: [str(path) for path in data.samples[_PATH]] for name, data in _subsets(datamodule).items()}


def _restore_split(datamodule: Any, split: dict[str, list[str]]) -> None:  # noqa: ANN401
    """Split the images as in a checkpoint, if they are the same images."""
    now = _split(datamodule)
    if now == split or sorted(chain(*now.values())) != sorted(chain(*split.values())):
        return
    subsets = _subsets(datamodule)
    samples = pd.concat([data.samples for data in subsets.values()])
    samples.index = pd.Index(samples[_PATH].astype(str))
    for name, data in subsets.items():
        data.samples = samples.loc[split[name]].reset_index(drop=True)


def _random_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002  the generator that user code uses
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
