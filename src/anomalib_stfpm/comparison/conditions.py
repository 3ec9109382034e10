"""What is the same for all models that are compared."""

from dataclasses import dataclass

from anomalib_stfpm import argument_checks
from anomalib_stfpm.backbone.teacher_weights import HUB
from anomalib_stfpm.lightning_model import PAPER_BACKBONE


@dataclass(frozen=True)
class Conditions:
    """Conditions under which every model is trained, tested and timed.

    Args:
        backbone: timm model of every model that has a backbone.
        teacher_weights: Its weights: ``hub``, ``package`` or a file, as for :class:`anomalib_stfpm.Stfpm`. All models
            get the same ones.
        input_size: Height and width in pixels that images are resized to.
        max_epochs: Number of epochs of models that train in epochs.
        val_split_ratio: Share of the normal training images that sets thresholds and, where a model chooses among its
            students, chooses. No model sees a test image before the test.
        accelerator: What to train on, as Lightning names it: ``auto``, ``cpu``, ``gpu``, ...
        time_limit: Minutes that a model may take for a category and a seed, from start to exported files.
        rounds: Turns of 10 images that each exported model gets when latency is measured.
        seconds: How long the throughput of each exported model is measured.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> Conditions("tf_efficientnet_lite0", "package").input_size
        (256, 256)
    """

    backbone: str = PAPER_BACKBONE
    teacher_weights: str = HUB
    input_size: tuple[int, int] = (256, 256)
    max_epochs: int = 20
    val_split_ratio: float = 0.2
    accelerator: str = "auto"
    time_limit: float = 60.0
    rounds: int = 20
    seconds: float = 3.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        for name in ("max_epochs", "rounds"):
            argument_checks.count(name, getattr(self, name), minimum=1)
        for name in ("time_limit", "seconds"):
            argument_checks.number(name, getattr(self, name), "positive", lambda given: given > 0)
        argument_checks.size("input_size", self.input_size)
        argument_checks.number("val_split_ratio", self.val_split_ratio, "between 0 and 1", lambda share: 0 < share < 1)
