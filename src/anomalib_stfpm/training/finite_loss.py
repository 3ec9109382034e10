"""Stop training at a loss that is not finite, and say why, before the optimiser ruins the student."""

from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib.data import ImageBatch
from lightning.pytorch.callbacks import Callback

from anomalib_stfpm.components.pre_processor import PreProcessedBatch
from anomalib_stfpm.torch_model import Pyramids, StfpmModel

_LARGE = 1e6  # larger weights do not occur in a network that learns


class FiniteLoss(Callback):
    """Check the loss of every batch: at once on a CPU, and at the end of an epoch on a GPU, which is not to wait.

    Until then a fused optimiser changes nothing from the first loss on that is not finite. So the batch can be made
    again and looked at, with the same student.
    """

    def __init__(self) -> None:
        self._is_later = False
        self._unchecked: list[tuple[torch.Tensor, Callable[[], PreProcessedBatch]]] = []
        self._failed: torch.Tensor | None = None

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Decide when to check, and forget the training before."""
        is_fused = all(optimizer.defaults.get("fused") for optimizer in trainer.optimizers)
        self._is_later = is_fused and _looking_waits(pl_module.device)
        self._unchecked, self._failed = [], None

    def check(self, loss: torch.Tensor, batch: ImageBatch, pyramids: Pyramids, pl_module: Any) -> None:  # noqa: ANN401
        """Check the loss of a pre-processed batch and its teacher and student pyramids, or note it.

        Raises:
            ValueError: See :func:`require_finite`.
        """
        if self._is_later and isinstance(batch, PreProcessedBatch):
            failed = loss.detach().isfinite().logical_not()
            self._failed = failed if self._failed is None else self._failed | failed
            self._unchecked.append((loss.detach(), batch.source))
        else:
            require_finite(loss, pl_module.current_epoch, pl_module.hparams["layers"], batch, pyramids, pl_module.model)

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any) -> None:  # noqa: ANN401
        """Let the optimiser change nothing once a loss was not finite, as a gradient scaler does."""
        del trainer, pl_module
        if self._failed is not None:
            optimizer.found_inf = self._failed.float()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the noted losses before the student is validated and saved."""
        self._check_noted(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Check the noted losses before the student is saved."""
        self._check_noted(trainer, pl_module)

    def _check_noted(self, trainer: pl.Trainer, pl_module: Any) -> None:  # noqa: ANN401
        noted, self._unchecked = self._unchecked, []
        values = torch.stack([loss for loss, _ in noted]).cpu() if noted else torch.zeros(0)
        for value, (_, make_batch) in zip(values, noted, strict=True):
            if not value.isfinite():
                batch, model = make_batch(), pl_module.model
                with torch.no_grad(), trainer.precision_plugin.forward_context():
                    pyramids = (batch.teacher_pyramid, model.train().student_pyramid(batch.image))
                require_finite(value, pl_module.current_epoch, pl_module.hparams["layers"], batch, pyramids, model)


def _looking_waits(device: torch.device) -> bool:
    """Whether looking at a number on a device takes until everything before it is computed."""
    return device.type == "cuda"


def require_finite(
    loss: torch.Tensor,
    epoch: int,
    levels: Sequence[str | int],
    batch: ImageBatch,
    pyramids: Pyramids,
    model: StfpmModel,
) -> None:
    """Check the loss of a pre-processed batch and its teacher and student pyramids.

    Raises:
        ValueError: If the loss is not finite. The message names epoch, level and likely reason.
    """
    if loss.isfinite():
        return
    not_finite = [
        level for level, *features in zip(levels, *pyramids, strict=True) if not all(map(_is_finite, features))
    ]
    where = f"at level '{not_finite[0]}' of the feature pyramid" if not_finite else "though all features are finite"
    reason = _reason(batch, pyramids, model) if not_finite else "lower level_weights."
    msg = f"The loss of epoch {epoch} is {loss.item()}, {where}: {reason}"
    raise ValueError(msg)


def _reason(batch: ImageBatch, pyramids: Pyramids, model: StfpmModel) -> str:
    images: Any = batch.image
    for position, image in enumerate(images):
        if not _is_finite(image):
            named = f"'{batch.image_path[position]}'" if batch.image_path else "an image"
            return f"{named} is not finite once it is pre-processed; look at it and at the pre-processor's transform."
    if not all(map(_is_finite, model.teacher.state_dict().values())):
        return "the teacher's weights are not finite; give teacher_weights another file."
    # The running statistics are not finite either by now, so look at the weights only.
    if not all(bool(weight.abs().max() < _LARGE) for weight in model.student.parameters()):
        return "the student's weights have grown beyond all bounds; train with a lower learning_rate."
    if any(level.dtype == torch.float16 for pyramid in pyramids for level in pyramid):
        return "the features are too large for 16 bits; train with another precision, bf16-mixed or 32."
    return "the student's features have grown beyond all bounds; train with a lower learning_rate."


def _is_finite(tensor: torch.Tensor) -> bool:
    return bool(tensor.isfinite().all())
