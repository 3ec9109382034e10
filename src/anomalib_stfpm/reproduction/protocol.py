"""How the published results were made, and how they are measured here."""

from dataclasses import dataclass
from typing import Any

from anomalib.metrics import AUPRO, AUROC

from anomalib_stfpm import argument_checks
from anomalib_stfpm.evaluator import RawEvaluator
from anomalib_stfpm.feature_pyramid import resolve_layers
from anomalib_stfpm.lightning_model import PAPER_BACKBONE, Stfpm
from anomalib_stfpm.published_pro import PublishedPRO

AUTHORS_LEVEL_WEIGHT = 2.0
"""The code behind the published results leaves out the half of the paper's loss, which doubles the gradients."""


@dataclass(frozen=True)
class Protocol:
    """What the published protocol leaves open or is changed to; the defaults are those of the original.

    Args:
        max_epochs: Number of epochs.
        train_batch_size: Pictures in a training batch.
        eval_batch_size: Pictures in a batch of validation or test.
        val_split_ratio: Share of the normal training pictures that is held out to choose the student by.
        num_workers: Number of processes that read pictures.
        accelerator: What to train on, as Lightning names it: ``auto``, ``cpu``, ``gpu``, ...
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
        """Check the numbers."""
        for name in ("max_epochs", "train_batch_size", "eval_batch_size"):
            argument_checks.count(name, getattr(self, name), minimum=1)
        argument_checks.number("val_split_ratio", self.val_split_ratio, "between 0 and 1", lambda share: 0 < share < 1)
        argument_checks.count("num_workers", self.num_workers, minimum=0)


def evaluator() -> RawEvaluator:
    """Make the evaluator of the protocol.

    Returns:
        An evaluator that tests with ``image_AUROC`` and, where there are masks, ``pixel_AUROC``, ``PublishedPRO`` and
        ``AUPRO``.

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
    """Make the model as the authors trained theirs.

    Args:
        arguments: Arguments of :class:`anomalib_stfpm.Stfpm`. Without ``level_weights`` every level weighs 2.

    Returns:
        A model with the protocol's evaluator and without a visualizer.

    Raises:
        ValueError: If an argument is not valid.

    Example:
        >>> authors_stfpm().hparams["level_weights"]
        [2.0, 2.0, 2.0]
    """
    if arguments.get("level_weights") is None:
        layers = resolve_layers(arguments.get("backbone", PAPER_BACKBONE), arguments.get("layers"))
        arguments["level_weights"] = [AUTHORS_LEVEL_WEIGHT] * len(layers)
    return Stfpm(**arguments, evaluator=evaluator(), visualizer=False)
