"""Which student training ends with: the one with the lowest error on held-out normal pictures."""

import logging
import math
import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from anomalib.data.utils import Split
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from .registry import OncePerFit
from .several_processes import counted

logger = logging.getLogger(__name__)

VAL_ERROR = "val_error"
BEST_CHECKPOINT = "best.ckpt"
TILE_CHECKPOINT = re.compile(r"model(\d+_\d+)")  # of anomalib's tiled ensemble, all of them in one folder

_NORMAL = 0
_NOT_OF_THE_STUDENT = ("model.teacher.", "evaluator.")


class StudentSelection(Callback):
    """Keep the student with the lowest validation error, as the original does.

    The validation error is the mean of the anomaly map over normal pictures that are held out from training. It is
    logged as ``val_error``. The student with the lowest is in memory when fit ends, together with the thresholds and
    normalisation that post-processing took from its own validation, and is saved as ``best.ckpt`` beside the other
    checkpoints. Every checkpoint also holds the student kept so far, see :func:`kept_student`.

    Test pictures choose no student. If validation holds any, or no normal picture, the last student is kept. Synthetic
    defects, which anomalib draws on held-out normal pictures, do not count either.
    """

    def __init__(self) -> None:
        self._held_out: list[str] = []
        self._kept: dict[str, Any] = {}
        self._error, self._pictures = torch.zeros(()), 0
        self._warnings = OncePerFit()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the held-out normal pictures, and let anomalib say only once that they are normal.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: What the trainer is about to do.
        """
        del pl_module, stage
        self._held_out = held_out_normal_pictures(trainer)
        self._warnings.install()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave anomalib's log as it was.

        Args:
            trainer: The trainer.
            pl_module: The model.
            stage: What the trainer has done.
        """
        del trainer, pl_module, stage
        self._warnings.remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave anomalib's log as it was also where training fails, after which there is no teardown.

        Args:
            trainer: The trainer.
            pl_module: The model.
            exception: Not used.
        """
        del trainer, pl_module, exception
        self._warnings.remove()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say which student will be kept, where that may surprise.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del pl_module
        self._held_out = held_out_normal_pictures(trainer)  # a resumed training has restored the split by now
        if self._kept and self._kept["held_out"] != self._held_out:
            logger.warning(
                "The held-out pictures are not those of the interrupted training, so its students cannot be compared "
                "with new ones: give the same datamodule as then to go on exactly."
            )
            self._kept = {}
        if trainer.enable_validation and not self._held_out:
            logger.warning(
                "Validation pictures are not held out from training, so they choose no student: the last one is kept. "
                "To keep the best one on held-out normal pictures, as the original does, set the datamodule's "
                "val_split_mode to from_train and its val_split_ratio to 0.2."
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin to measure the validation error.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del trainer
        self._error, self._pictures = torch.zeros((), device=pl_module.device), 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the maps of a batch's held-out normal pictures to the validation error.

        Args:
            trainer: The trainer.
            pl_module: The model.
            outputs: Not used.
            batch: Batch with ``anomaly_map`` of shape ``(N, 1, H, W)`` and ``gt_label`` of shape ``(N,)``.
            batch_idx: Number of the batch.
            dataloader_idx: Number of the dataloader.
        """
        del pl_module, outputs
        if not self._held_out:
            return
        anomaly_map, gt_label = batch.anomaly_map, batch.gt_label
        if anomaly_map is None or gt_label is None:
            return
        number = counted(trainer.val_dataloaders, batch_idx, dataloader_idx, len(batch))
        normal_maps = anomaly_map[:number][gt_label[:number] == _NORMAL]
        if len(normal_maps):
            self._error += normal_maps.float().mean() * len(normal_maps)
            self._pictures += len(normal_maps)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation error, which all processes of a distributed training have measured together.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        if not self._held_out:
            return
        # Lightning's own mean is wrong where processes have seen different numbers of pictures.
        measured = torch.stack([self._error, self._error.new_tensor(self._pictures)])
        error, pictures = trainer.strategy.reduce(measured, reduce_op="sum")
        if pictures:
            pl_module.log(
                VAL_ERROR, error / pictures, on_step=False, on_epoch=True, prog_bar=True, batch_size=1, sync_dist=True
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep this student, and save it, if it is the best so far.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        if not self._held_out or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        error = float(trainer.callback_metrics.get(VAL_ERROR, math.nan))
        if not error < self._kept.get(VAL_ERROR, math.inf):
            return
        student = {
            key: value.detach().cpu().clone()
            for key, value in pl_module.state_dict().items()
            if not key.startswith(_NOT_OF_THE_STUDENT)
        }
        self._kept = {
            VAL_ERROR: error,
            "epoch": trainer.current_epoch,
            "held_out": self._held_out,
            "state_dict": student,
        }
        callback = trainer.checkpoint_callback
        folder = getattr(callback, "dirpath", None)
        if folder is not None:
            place = TILE_CHECKPOINT.fullmatch(getattr(callback, "filename", None) or "")
            name = f"best{place[1]}.ckpt" if place else BEST_CHECKPOINT
            trainer.save_checkpoint(Path(folder) / name, weights_only=False)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the student kept into the model.

        Args:
            trainer: The trainer.
            pl_module: The model.
        """
        del trainer
        if self._kept:
            pl_module.load_state_dict(self._kept["state_dict"], strict=False)
            logger.info("Kept the student of epoch %d, val_error %.4g.", self._kept["epoch"], self._kept[VAL_ERROR])

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps: the student kept so far.

        Returns:
            Plain values and tensors; empty if there is none.
        """
        return self._kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the student that an interrupted training had kept.

        Args:
            state_dict: What :meth:`state_dict` returned.
        """
        self._kept = state_dict


def kept_student(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Find the student that training had kept when it wrote a checkpoint.

    Args:
        checkpoint: A loaded checkpoint.

    Returns:
        The state of everything but teacher and metrics; empty if the checkpoint's own student is the one to use.
    """
    selection = checkpoint.get("callbacks", {}).get(StudentSelection.__qualname__) or {}
    state_dict: dict[str, torch.Tensor] = selection.get("state_dict", {})
    return state_dict


def held_out_normal_pictures(trainer: pl.Trainer) -> list[str]:
    """List the normal pictures that validation may choose a student by.

    Args:
        trainer: A trainer whose datamodule is set up.

    Returns:
        Their paths in order; none if any validation picture belongs to the test set, or the datamodule does not say.
    """
    datamodule = getattr(trainer, "datamodule", None)
    samples = getattr(getattr(datamodule, "val_data", None), "samples", None)
    if samples is None or not {"image_path", "label_index", "split"} <= set(samples.columns):
        return []
    tested = getattr(getattr(datamodule, "test_data", None), "samples", None)
    test_paths = set() if tested is None else set(tested["image_path"])
    if Split.TEST in set(samples["split"]) or not test_paths.isdisjoint(samples["image_path"]):
        return []
    return sorted(str(path) for path in samples.loc[samples["label_index"] == _NORMAL, "image_path"])
