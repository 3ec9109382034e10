"""One set of weights for every model that asks timm for a pretrained backbone, also where no hub is in reach."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import timm
import torch


@contextmanager
def pretrained(backbone: str, weights: Mapping[str, torch.Tensor] | None) -> Iterator[None]:
    """Let timm give these weights wherever a model asks for a pretrained backbone of this architecture.

    anomalib's models take weights from the hub only, and know no argument for others. ``None`` leaves them random, for
    a model that is made only to be looked at or to load a checkpoint into.

    Example:
        >>> with pretrained("resnet18", None):
        ...     model = timm.create_model("resnet18.tv_in1k", pretrained=True)  # asks no hub
    """
    create_model = timm.create_model

    def create(model_name: str, *args: Any, **kwargs: Any) -> torch.nn.Module:  # noqa: ANN401
        if weights is None:
            kwargs["pretrained"] = False
        elif kwargs.get("pretrained") and model_name.partition(".")[0] == backbone.partition(".")[0]:
            kwargs["pretrained_cfg_overlay"] = {"state_dict": dict(weights)}
        return create_model(model_name, *args, **kwargs)

    with patch("timm.create_model", create):
        yield
