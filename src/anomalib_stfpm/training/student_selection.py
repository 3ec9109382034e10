"""Choose the student with the lowest error on held-out normal images."""

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

from anomalib_stfpm.components.unrepeated_images import count_unrepeated
from anomalib_stfpm.registry import OncePerFit

logger = logging.getLogger(__name__)

VAL_ERROR = "val_error"
BEST_CHECKPOINT = "best.ckpt"
TILE_CHECKPOINT = re.compile(r"model(\d+_\d+)")  # of anomalib's tiled ensemble, all of them in one folder

_NORMAL = 0
_NOT_OF_THE_STUDENT = ("model.teacher.", "evaluator.")


class StudentSelection(Callback):
    """Keep the student with the lowest validation error, as the original does.

    The validation error is the mean of the anomaly map over held-out normal images. It is logged as ``val_error``. When
    fit ends, the model holds the student with the lowest error, together with the thresholds and normalisation of its
    own validation. That student is also saved as ``best.ckpt`` beside the other checkpoints, and every checkpoint
    holds the best student so far, see :func:`kept_student`.

    Test images do not choose the student: if validation holds any, or no normal image, the last student is kept.
    anomalib's synthetic defects, drawn on held-out normal images, do not count either.
    """

    def __init__(self) -> None:
        self._held_out: list[str] = []
        self._kept: dict[str, Any] = {}
        self._error, self._images = torch.zeros(()), 0
        self._warnings = OncePerFit()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the held-out normal images, and log anomalib's warning that they are normal only once."""
        del pl_module, stage
        self._held_out = held_out_normal_images(trainer)
        self._warnings.install()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restore anomalib's log."""
        del trainer, pl_module, stage
        self._warnings.remove()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restore anomalib's log also when training fails, which skips teardown."""
        del trainer, pl_module, exception
        self._warnings.remove()

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Warn if no student can be chosen, or if the held-out images have changed."""
        del pl_module
        self._held_out = held_out_normal_images(trainer)  # a resumed training has just restored the split
        if self._kept and self._kept["held_out"] != self._held_out:
            logger.warning(
                "The held-out images are not those of the interrupted training, so its students cannot be compared "
                "with new ones: give the same datamodule as then to go on exactly."
            )
            self._kept = {}
        if not trainer.enable_validation:
            logger.warning(
                "There is no validation, so the last student is kept and no thresholds are set: labels and F1 mean "
                "nothing, and the model cannot be exported, until Engine.validate has set them."
            )
        elif not self._held_out:
            logger.warning(
                "Validation images are not held out from training, so they choose no student: the last one is kept. "
                "To keep the best one on held-out normal images, as the original does, set the datamodule's "
                "val_split_mode to from_train and its val_split_ratio to 0.2."
            )

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reset the validation error."""
        del trainer
        self._error, self._images = torch.zeros((), device=pl_module.device), 0

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: ImageBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the anomaly maps of the held-out normal images in a batch to the validation error."""
        del pl_module, outputs
        if not self._held_out:
            return
        anomaly_map, gt_label = batch.anomaly_map, batch.gt_label
        if anomaly_map is None or gt_label is None:
            return
        number = count_unrepeated(trainer.val_dataloaders, batch_idx, dataloader_idx, len(batch))
        normal_maps = anomaly_map[:number][gt_label[:number] == _NORMAL]
        if len(normal_maps):
            self._error += normal_maps.float().mean() * len(normal_maps)
            self._images += len(normal_maps)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the validation error over all processes."""
        if not self._held_out:
            return
        # Lightning's own mean is wrong if processes have seen different numbers of images.
        measured = torch.stack([self._error, self._error.new_tensor(self._images)])
        error, images = trainer.strategy.reduce(measured, reduce_op="sum")
        if images:
            pl_module.log(
                VAL_ERROR, error / images, on_step=False, on_epoch=True, prog_bar=True, batch_size=1, sync_dist=True
            )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep and save this student if it is the best so far."""
        if not self._held_out or trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        error = float(trainer.callback_metrics.get(VAL_ERROR, math.nan))
        if not error < self._kept.get(VAL_ERROR, math.inf):
            return
        student = {
            key: value.detach().clone()
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
            tile = TILE_CHECKPOINT.fullmatch(getattr(callback, "filename", None) or "")
            name = f"best{tile[1]}.ckpt" if tile else BEST_CHECKPOINT
            trainer.save_checkpoint(Path(folder) / name, weights_only=True)  # for use: model.ckpt is for resuming

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Load the kept student into the model."""
        del trainer
        if self._kept:
            pl_module.load_state_dict(self._kept["state_dict"], strict=False)
            logger.info("Kept the student of epoch %d, val_error %.4g.", self._kept["epoch"], self._kept[VAL_ERROR])

    def state_dict(self) -> dict[str, Any]:
        """Return the kept student for a checkpoint."""
        return self._kept

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the kept student from a checkpoint."""
        self._kept = state_dict


def kept_student(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return the state of the kept student, without teacher and metrics, or nothing if a checkpoint has none."""
    selection = checkpoint.get("callbacks", {}).get(StudentSelection.__qualname__) or {}
    state_dict: dict[str, torch.Tensor] = selection.get("state_dict", {})
    return state_dict


def without_duplicates(callbacks: dict[str, Any], state_dict: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Remove tensors from the kept student that equal the last student's; :func:`fill_kept_student` restores them."""
    selection = callbacks.get(StudentSelection.__qualname__)
    if not selection:
        return callbacks
    kept = {
        key: value
        for key, value in selection["state_dict"].items()
        if key not in state_dict or not torch.equal(value, state_dict[key].detach().to(value.device))
    }
    return {**callbacks, StudentSelection.__qualname__: {**selection, "state_dict": kept}}


def fill_kept_student(checkpoint: dict[str, Any]) -> None:
    """Restore the tensors that :func:`without_duplicates` removed from the kept student."""
    selection = checkpoint.get("callbacks", {}).get(StudentSelection.__qualname__)
    if selection:
        for key, value in checkpoint["state_dict"].items():
            if not key.startswith(_NOT_OF_THE_STUDENT):
                selection["state_dict"].setdefault(key, value.detach().cpu().clone())


def held_out_normal_images(trainer: pl.Trainer) -> list[str]:
    """Return the sorted paths of the normal images that may choose the student.

    None may if a validation image belongs to the test set, or if the datamodule has no table of samples.
    """
    datamodule = getattr(trainer, "datamodule", None)
    samples = getattr(getattr(datamodule, "val_data", None), "samples", None)
    if samples is None or not {"image_path", "label_index", "split"} <= set(samples.columns):
        return []
    test_samples = getattr(getattr(datamodule, "test_data", None), "samples", None)
    test_paths = set() if test_samples is None else set(test_samples["image_path"])
    if Split.TEST in set(samples["split"]) or not test_paths.isdisjoint(samples["image_path"]):
        return []
    return sorted(str(path) for path in samples.loc[samples["label_index"] == _NORMAL, "image_path"])
