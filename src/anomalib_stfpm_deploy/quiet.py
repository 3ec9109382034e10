"""Hides known messages of dependencies that tell a user of a command nothing. Any other message still shows."""

import logging
import re
import warnings

_WARNINGS = (
    (r"Importing from timm\.models\.layers is deprecated", FutureWarning),  # anomalib imports it
    (r"The anomalib\.models\.components\.dinov2 package is deprecated", FutureWarning),  # and this
    (r".*isinstance\(treespec, LeafSpec\).* is deprecated", FutureWarning),  # Lightning calls it
    (r"Found \d+ module\(s\) in eval mode at the start of training", UserWarning),  # the teacher, always
    (r"The '.*' does not have many workers which may be a bottleneck", UserWarning),  # anomalib's default is 8
)
_LOGGED = {
    "anomalib.callbacks": r"Loading the callbacks",
    "anomalib.cli.utils.openvino": r"OpenVINO is possibly not installed",
    "anomalib.engine.engine": r"Overriding num_sanity_val_steps",
    "anomalib.models.components.base.anomalib_module": r"Initializing \w+ model",
    "timm.models._helpers": r"Loaded .*from checkpoint",
    # Lightning logs with the last of these that was imported.
    **dict.fromkeys(
        [
            f"{package}.utilities.rank_zero"
            for package in ("lightning.fabric", "lightning.pytorch", "lightning_fabric", "pytorch_lightning")
        ],
        r"💡 Tip|TPU available: False|The following callbacks returned in",
    ),
}
"""What to hide of a logger: the beginnings of messages."""


class HideMessages(logging.Filter):
    """Hide the messages that begin as a pattern says."""

    def __init__(self, pattern: str) -> None:
        super().__init__()
        self._pattern = re.compile(pattern)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log a message."""
        return not self._pattern.match(record.getMessage())


def hide_known_messages() -> None:
    """Hide known messages in this process, which must be that of a command."""
    for pattern, category in _WARNINGS:
        warnings.filterwarnings("ignore", pattern, category)
    for logger, pattern in _LOGGED.items():
        hide(logger, pattern)


def hide(logger: str, pattern: str) -> None:
    """Hide messages of a logger that begin as a pattern says, once however often it is called."""
    filters = logging.getLogger(logger).filters
    if not any(isinstance(one, HideMessages) and one._pattern.pattern == pattern for one in filters):
        logging.getLogger(logger).addFilter(HideMessages(pattern))
