"""Recipes to train with: the original, changes of it, and anomalib's models."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from anomalib.data import ImageBatch
from anomalib.models.components import AnomalibModule
from lightning.pytorch.utilities.types import STEP_OUTPUT

from anomalib_stfpm import Stfpm, available_levels
from anomalib_stfpm.reproduction import authors_stfpm, evaluator
from benchmarks import peers

Make = Callable[[str, str], AnomalibModule]  # from backbone and teacher weights


@dataclass(frozen=True)
class Variant:
    """A recipe.

    Args:
        make: Makes the model.
        train_batch_size: Images in a training batch.
    """

    make: Make
    train_batch_size: int = 32


@dataclass(frozen=True)
class Changed:
    """Make this package's model with other arguments than the defaults."""

    arguments: dict[str, Any] = field(default_factory=dict)
    strides: tuple[int, ...] | None = None
    model: type[Stfpm] = Stfpm

    def __call__(self, backbone: str, teacher_weights: str) -> Stfpm:
        """Make the model."""
        layers = None if self.strides is None else _layers(backbone, self.strides)
        return self.model(backbone, layers, teacher_weights, evaluator=evaluator(), visualizer=False, **self.arguments)


class Turned(Stfpm):
    """Trained on images that are mirrored and turned by quarters at random."""

    def training_step(self, batch: ImageBatch, *args: Any, **kwargs: Any) -> STEP_OUTPUT:  # noqa: ANN401
        """Turn each image of the batch anew, and compute the teacher's features, which are then never the same."""
        del args, kwargs
        images: Any = batch.image
        images = torch.stack([turned(image) for image in images])
        loss: torch.Tensor = self.loss(self.model.teacher_pyramid(images), self.model.student_pyramid(images))
        return loss


def turned(image: torch.Tensor) -> torch.Tensor:
    """Mirror and turn an image of shape ``(3, H, W)`` at random, in one of eight ways."""
    quarters, mirrored = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    image = torch.rot90(image, quarters, (-2, -1))
    return image.flip(-1) if mirrored else image


def _layers(backbone: str, strides: tuple[int, ...]) -> list[str]:
    """The deepest level of each stride."""
    by_stride = {stride: name for name, stride in available_levels(backbone).items()}
    return [by_stride[stride] for stride in strides]


def _authors(backbone: str, teacher_weights: str, **others: Any) -> Stfpm:  # noqa: ANN401
    return authors_stfpm(backbone=backbone, teacher_weights=teacher_weights, **others)


def _cycle(peak: float, **others: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"schedule": "one_cycle", "learning_rate": peak, **others}


def _tuned(peak: float) -> Changed:
    return Changed(_cycle(peak, map_contrast=0.5, map_smoothing=1.0), strides=(4, 8, 16, 32))


RECIPES = {
    "original": Variant(_authors),
    "original, features in 32 bits": Variant(partial(_authors, exact_cache=True)),
    "tuned": Variant(_tuned(0.4), 8),
    "tuned, peak 0.8": Variant(_tuned(0.8), 8),
    # one change at a time
    "batch 8": Variant(Changed(), 8),
    "cycle 1.6": Variant(Changed(_cycle(1.6))),
    "cycle 3.2": Variant(Changed(_cycle(3.2))),
    # schedule and batch size together
    "cycle 0.4, batch 8": Variant(Changed(_cycle(0.4)), 8),
    "cycle 0.8, batch 8": Variant(Changed(_cycle(0.8)), 8),
    "cycle 1.6, batch 8": Variant(Changed(_cycle(1.6)), 8),
    "cycle 3.2, batch 8": Variant(Changed(_cycle(3.2)), 8),
    "cycle 1.6, batch 4": Variant(Changed(_cycle(1.6)), 4),
    # and one more change
    "cycle 1.6, batch 8, turned": Variant(Changed(_cycle(1.6), model=Turned), 8),
    "cycle 1.6, batch 8, 384 x 384": Variant(Changed(_cycle(1.6, input_size=(384, 384))), 8),
    "cycle 1.6, batch 8, strides 8 to 32": Variant(Changed(_cycle(1.6), strides=(8, 16, 32)), 8),
    "cycle 1.6, batch 8, strides 4 to 32": Variant(Changed(_cycle(1.6), strides=(4, 8, 16, 32)), 8),
    "cycle 1.6, batch 8, strides 8 and 16": Variant(Changed(_cycle(1.6), strides=(8, 16)), 8),
    "cycle 1.6, batch 8, levels 1 2 4": Variant(Changed(_cycle(1.6, level_weights=[1, 2, 4])), 8),
}
PEERS = {
    "anomalib's Stfpm": Variant(peers.stfpm),
    "PaDiM": Variant(peers.padim),
    "PatchCore": Variant(peers.patchcore),
}
VARIANTS = {**RECIPES, **PEERS}
