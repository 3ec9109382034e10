"""anomalib's own models on the teacher and pre-processing of this package's, to compare with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import anomalib.models
import timm
import torch
from anomalib.models.components import AnomalibModule

from anomalib_stfpm import Stfpm
from anomalib_stfpm.feature_pyramid import resolve_layers
from anomalib_stfpm.reproduction import evaluator
from anomalib_stfpm.teacher_weights import read

PADIM_FEATURES = 100
"""Number of features that PaDiM draws from all levels, anomalib's for a ResNet-18."""

PATCHCORE_SHARE = 0.01
"""Share of all patches that PatchCore remembers: the smallest of its paper, for choosing takes time in proportion. With
anomalib's 10 %, a core had not chosen those of 192 pictures in 20 minutes."""


@contextmanager
def without_weights() -> Iterator[None]:
    """Let timm make models with random weights, though it is asked for pretrained ones."""
    create_model = timm.create_model

    def create_without_weights(*args: Any, **kwargs: Any) -> torch.nn.Module:  # noqa: ANN401
        return create_model(*args, **{**kwargs, "pretrained": False})

    with patch("timm.create_model", create_without_weights):
        yield


def stfpm(backbone: str, teacher_weights: str) -> AnomalibModule:
    """Make anomalib's Stfpm, with its own defaults."""
    with without_weights():
        model = anomalib.models.Stfpm(**_common(backbone))
    return _with_weights(model, model.model.teacher_model, backbone, teacher_weights)


def padim(backbone: str, teacher_weights: str) -> AnomalibModule:
    """Make anomalib's PaDiM."""
    with without_weights():
        model = anomalib.models.Padim(n_features=PADIM_FEATURES, **_common(backbone))
    return _with_weights(model, model.model.feature_extractor, backbone, teacher_weights)


def patchcore(backbone: str, teacher_weights: str) -> AnomalibModule:
    """Make anomalib's PatchCore, on the last two levels as by its own default."""
    arguments = _common(backbone)
    arguments["layers"] = arguments["layers"][-2:]
    with without_weights():
        model = anomalib.models.Patchcore(coreset_sampling_ratio=PATCHCORE_SHARE, **arguments)
    return _with_weights(model, model.model.feature_extractor, backbone, teacher_weights)


def _common(backbone: str) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "layers": resolve_layers(backbone, None),
        "pre_processor": Stfpm.configure_pre_processor(backbone=backbone),
        "evaluator": evaluator(),
        "visualizer": False,
    }


def _with_weights(model: AnomalibModule, extractor: Any, backbone: str, teacher_weights: str) -> AnomalibModule:  # noqa: ANN401
    """Give anomalib's feature extractor, which takes pretrained weights from the hub only, the same ones by hand."""
    weights = read(backbone, teacher_weights)
    missing = extractor.feature_extractor.load_state_dict(weights, strict=False).missing_keys
    if missing:
        msg = f"anomalib's backbone needs weights that were not given: {missing}"
        raise ValueError(msg)
    return model
