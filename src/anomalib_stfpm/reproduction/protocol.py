"""Training settings and metrics of the published results."""

from dataclasses import dataclass
from typing import Any

from anomalib.metrics import AUPRO, AUROC

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone.feature_pyramid import resolve_layers
from anomalib_stfpm.components.evaluator import RawEvaluator
from anomalib_stfpm.components.published_pro import PublishedPRO
from anomalib_stfpm.lightning_model import PAPER_BACKBONE, Stfpm
from anomalib_stfpm.training.schedule import CONSTANT

AUTHORS_LEVEL_WEIGHT = 2.0
"""The code behind the published results omits the factor 1/2 of the paper's loss, which doubles the gradients."""


ORIGINAL_RECIPE: dict[str, Any] = {
    "hard_mining": 0.0,
    "map_contrast": 0.0,
    "map_smoothing": 0.0,
    "schedule": CONSTANT,
}
"""Where the authors differ from the defaults of :class:`anomalib_stfpm.Stfpm`, but for what is set for each level."""


@dataclass(frozen=True)
class Protocol:
    """Training settings of a reproduction. The defaults are the published ones.

    Args:
        max_epochs: Number of epochs.
        train_batch_size: Images in a training batch.
        eval_batch_size: Images in a batch of validation or test.
        val_split_ratio: Share of the normal training images that is held out to select the student.
        num_workers: Number of processes that load images.
        accelerator: Lightning's accelerator: ``auto``, ``cpu``, ``gpu``, ...
        precision: Lightning's precision: ``32-true``, ``bf16-mixed``, ...

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> Protocol(max_epochs=30).train_batch_size
        32
    """

    max_epochs: int = 100
    train_batch_size: int = 32
    eval_batch_size: int = 32
    val_split_ratio: float = 0.2
    num_workers: int = 0
    accelerator: str = "auto"
    precision: str = "32-true"

    def __post_init__(self) -> None:
        """Check the settings."""
        for name in ("max_epochs", "train_batch_size", "eval_batch_size"):
            argument_checks.count(name, getattr(self, name), minimum=1)
        argument_checks.number("val_split_ratio", self.val_split_ratio, "between 0 and 1", lambda share: 0 < share < 1)
        argument_checks.count("num_workers", self.num_workers, minimum=0)


def evaluator() -> RawEvaluator:
    """Make an evaluator with the published metrics.

    Returns:
        An evaluator with ``image_AUROC`` and, if there are masks, ``pixel_AUROC``, ``PublishedPRO`` and ``AUPRO``.

    Example:
        >>> [metric.name for metric in evaluator().test_metrics]
        ['image_AUROC', 'pixel_AUROC', 'PublishedPRO', 'AUPRO']
    """
    fields = ["anomaly_map", "gt_mask"]
    return RawEvaluator(
        [
            AUROC(fields=["pred_score", "gt_label"], prefix="image_"),
            AUROC(fields=fields, prefix="pixel_", strict=False),
            PublishedPRO(strict=False),
            AUPRO(fields=fields, strict=False),
        ]
    )


def authors_stfpm(**arguments: Any) -> Stfpm:  # noqa: ANN401
    """Make the model as the authors trained it.

    Args:
        arguments: Arguments of :class:`anomalib_stfpm.Stfpm`. Their defaults are those of the authors: levels of
            stride 4, 8 and 16, ``level_weights`` of 2 and ``level_powers`` of 1 for every level, and
            :data:`ORIGINAL_RECIPE`.

    Returns:
        A model with the evaluator of :func:`evaluator` and without a visualizer.

    Example:
        >>> authors_stfpm().hparams["level_weights"]
        [2.0, 2.0, 2.0]
    """
    layers = resolve_layers(arguments.get("backbone", PAPER_BACKBONE), arguments.get("layers"))
    for name, value in (("level_weights", AUTHORS_LEVEL_WEIGHT), ("level_powers", 1.0)):
        if arguments.get(name) is None:
            arguments[name] = [value] * len(layers)
    return Stfpm(**{**ORIGINAL_RECIPE, **arguments, "layers": layers}, evaluator=evaluator(), visualizer=False)
