"""What a checkpoint of the model holds, and how a model is restored from it."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from anomalib.data import AnomalibDataModule
from anomalib.models.components import AnomalibModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_stfpm.backbone.teacher_weights import differences
from anomalib_stfpm.checkpoint import safe_io
from anomalib_stfpm.components.tiling import settings_of, tiler_of
from anomalib_stfpm.torch_model import StfpmModel
from anomalib_stfpm.training.student_selection import fill_kept_student, kept_student, without_duplicates

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound="CheckpointRestore")

_TILING = "tiling"  # in a checkpoint


class CheckpointRestore(AnomalibModule):
    """Save and restore the model, with errors that name the cause."""

    model: StfpmModel
    _resumed_from: str | Path | None = None

    @classmethod
    def load_from_checkpoint(
        cls: type[Model],
        checkpoint_path: Any,  # noqa: ANN401
        map_location: Any = None,  # noqa: ANN401  # whatever torch.load takes
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> Model:
        """Load a model from a checkpoint, see anomalib's ``AnomalibModule.load_from_checkpoint``.

        Args:
            checkpoint_path: The file.
            map_location: See ``torch.load``.
            hparams_file: See anomalib's method.
            strict: See anomalib's method.
            weights_only: Only used for a remote file. A local file is always read without running code in it.
            kwargs: Arguments that replace those of the checkpoint.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, holds more than tensors and plain values, or is of another model.
        """
        is_local = not safe_io.is_remote(checkpoint_path)
        try:
            model = super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only or is_local, **kwargs
            )
        except Exception:
            if is_local:
                safe_io.read(checkpoint_path, safe_globals=cls.checkpoint_safe_globals())
            raise
        return cast("Model", model)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Load a state, or say in one sentence how it differs from this model's."""
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            own = {key: tuple(value.shape) for key, value in self.state_dict().items()}
            given = {key: tuple(getattr(value, "shape", ())) for key, value in state_dict.items()}
            msg = (
                "The checkpoint is of another model than anomalib_stfpm.Stfpm, or of another version of it: "
                f"{differences(own, given)}."
            )
            raise ValueError(msg) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Save the tiling, and no tensor twice."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_TILING] = settings_of(self.model.tiler)
        if "callbacks" in checkpoint:
            # anomalib's components are modules and callbacks: their state is in the state_dict already.
            components = {child.state_key for child in self.children() if isinstance(child, Callback)}
            callbacks = {key: state for key, state in checkpoint["callbacks"].items() if key not in components}
            checkpoint["callbacks"] = without_duplicates(callbacks, checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the networks' shape, the pre-processing and the tiling of the checkpoint.

        Training goes on with the last student, everything else uses the best one.

        Raises:
            ValueError: If training is to go on from a checkpoint without optimiser state.
        """
        super().on_load_checkpoint(checkpoint)
        trainer = self._trainer
        is_fitting = trainer is not None and trainer.state.fn == TrainerFn.FITTING
        if is_fitting and "optimizer_states" not in checkpoint:
            msg = (
                "Training cannot go on from a checkpoint without the optimiser's state, such as best.ckpt or an "
                "imported student: give the model.ckpt of the training that was interrupted."
            )
            raise ValueError(msg)
        # Checkpoints from before level_powers existed multiply the level maps as they are.
        self._restore_shape({"level_powers": None, **checkpoint.get("hyper_parameters", {})})
        self._restore_tiler(checkpoint.get(_TILING))
        if is_fitting:
            fill_kept_student(checkpoint)
        else:
            self._replace_state(checkpoint, kept_student(checkpoint))
        if trainer is not None and trainer.state.fn == TrainerFn.TESTING and trainer.ckpt_path == self._resumed_from:
            # anomalib's train hands the checkpoint that training went on from to the test after it.
            logger.warning("Testing the student that training ended with, not the checkpoint that it went on from.")
            self._replace_state(checkpoint, self.state_dict())
        self._keep_evaluator(checkpoint)
        datamodule = getattr(trainer, "datamodule", None)
        if trainer is not None and isinstance(datamodule, AnomalibDataModule):
            # It resizes images before they are batched, and has so far looked at the pre-processor given.
            datamodule.setup(trainer.state.fn)

    def _restore_shape(self, saved: Mapping[str, Any]) -> None:
        shape = {name: saved[name] for name in inspect.signature(StfpmModel).parameters if name in saved}
        different = {name: value for name, value in shape.items() if self.hparams[name] != value}
        if different:
            settings = ", ".join(f"{name}={value!r}" for name, value in different.items())
            logger.warning("The checkpoint was trained with %s: using that instead of what was given.", settings)
            self.hparams.update(different)
            tiler = self.model.tiler
            self.model = StfpmModel(**shape).to(self.device).train(self.model.training)
            self.model.tiler = tiler

    def _restore_tiler(self, tiles: dict[str, Any] | None) -> None:
        if tiles is not None:
            if self.model.tiler is not None and settings_of(self.model.tiler) != tiles:
                logger.warning("The checkpoint was trained with tiles of %s: using those.", tiles)
            self.model.tiler = tiler_of(tiles)

    def _replace_state(self, checkpoint: dict[str, Any], state_dict: Mapping[str, torch.Tensor]) -> None:
        """Replace values of a checkpoint, also those that old ones hold for the components as callbacks."""
        checkpoint["state_dict"].update(state_dict)
        for name, component in self.named_children():
            if isinstance(component, Callback) and component.state_key in checkpoint.get("callbacks", {}):
                saved = checkpoint["callbacks"][component.state_key]
                own = {key: value for key, value in state_dict.items() if key.startswith(f"{name}.")}
                saved.update({key.removeprefix(f"{name}."): value for key, value in own.items()})

    def _keep_evaluator(self, checkpoint: dict[str, Any]) -> None:
        """Leave the metrics as they are: some have constants in their state, and a checkpoint may have had others."""
        state_dict = checkpoint["state_dict"]
        for key in [key for key in state_dict if key.startswith("evaluator.")]:
            del state_dict[key]
        state_dict.update({key: value for key, value in self.state_dict().items() if key.startswith("evaluator.")})
        evaluator: Any = self.evaluator
        if evaluator is not None:
            checkpoint.get("callbacks", {}).pop(evaluator.state_key, None)
