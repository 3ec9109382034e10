"""A feature pyramid: the intermediate feature maps of a timm backbone at chosen levels."""

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from anomalib_stfpm import argument_checks

PAPER_STRIDES = (4, 8, 16)
"""Strides of the paper's pyramid, conv2_x to conv4_x of a ResNet (section 3.2)."""

BATCH_NORM_MOMENTUM = 0.1
"""Share of each new batch in the running statistics of batch normalisation."""


class FeaturePyramid(nn.Module):
    """A timm backbone that returns its feature maps at the chosen levels.

    The backbone is cut after the deepest level, so it holds no parameter that the pyramid does not need. Its weights
    are random, drawn as timm does for its family. Normalisation is torchvision's, as in the original: every gain starts
    at one (timm starts the last one of each residual block at zero), and running statistics take in a tenth of each
    new batch (timm's TensorFlow families a hundredth, too little for the few hundred steps that a student trains).
    Pretrained weights are loaded separately, see :meth:`load_backbone`.

    Args:
        backbone: Name of a timm model, with or without a pretrained tag, such as ``"resnet18.tv_in1k"``.
        layers: Levels of the pyramid, each a module name such as ``"layer1"`` or an index into
            :func:`available_levels`. ``None`` takes the levels of stride 4, 8 and 16, those of the paper.

    Attributes:
        layers: Module name of every level, shallowest first.
        strides: Stride of every level, in pixels of the image.

    Raises:
        ValueError: If timm does not know the backbone, or a level is unknown or named twice, or there is none.

    Shape:
        - Input: ``(N, 3, H, W)``
        - Output: a list with one ``(N, C_l, H_l, W_l)`` tensor a level, shallowest first.

    Example:
        >>> pyramid = FeaturePyramid("resnet18.tv_in1k", ["layer1", "layer2"])
        >>> [tuple(level.shape) for level in pyramid(torch.zeros(1, 3, 64, 64))]
        [(1, 64, 16, 16), (1, 128, 8, 8)]
    """

    backbone: Any  # a timm model; timm gives its models no type that knows pruning and intermediate features

    def __init__(self, backbone: str, layers: Sequence[str | int] | None = None) -> None:
        super().__init__()
        backbone_config(backbone)
        self.backbone = timm.create_model(backbone, pretrained=False)
        levels = _levels(self.backbone)
        self.layers = _resolve(backbone, levels, layers)
        self.strides = [levels[layer] for layer in self.layers]
        self._indices = [list(levels).index(layer) for layer in self.layers]
        self.backbone.prune_intermediate_layers(self._indices, prune_norm=True, prune_head=True)
        _normalise_as_torchvision(self.backbone)
        self.backbone.to(memory_format=torch.channels_last)  # the faster layout for convolutions, on CPU too

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature map of every level.

        Args:
            images: Pre-processed images of shape ``(N, 3, H, W)``.

        Returns:
            One ``(N, C_l, H_l, W_l)`` tensor a level, shallowest first.

        Raises:
            ValueError: If they are no images.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            msg = (
                "Images must be a floating-point tensor of shape (N, 3, H, W): "
                f"got {images.dtype} of shape {tuple(images.shape)}."
            )
            raise ValueError(msg)
        features: list[torch.Tensor] = self.backbone.forward_intermediates(
            images.contiguous(memory_format=torch.channels_last),
            indices=self._indices,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return features

    def load_backbone(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Load backbone weights that are keyed as timm keys the complete model.

        Keys of parts that the pyramid does not hold (deeper stages, classifier) are left out.

        Args:
            state_dict: Weights of the complete backbone. Must hold every key of this pyramid's backbone, but for
                ``num_batches_tracked``, which old files lack.

        Raises:
            RuntimeError: If a key is missing or a tensor has another shape.
        """
        own = self.backbone.state_dict()
        counters = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")}
        given = {key: value for key, value in state_dict.items() if key in own}
        self.backbone.load_state_dict({**counters, **given})


def available_levels(backbone: str) -> dict[str, int]:
    """List the levels of a backbone.

    Args:
        backbone: Name of a timm model.

    Returns:
        The stride of every level by module name, shallowest first. A level's index is its place in this order.

    Raises:
        ValueError: If timm does not know the backbone.

    Example:
        >>> available_levels("resnet18.tv_in1k")
        {'act1': 2, 'layer1': 4, 'layer2': 8, 'layer3': 16, 'layer4': 32}
    """
    backbone_config(backbone)
    return dict(_levels_by_name(backbone))


def backbone_config(backbone: str) -> PretrainedCfg:
    """Look up what timm knows of a backbone: its weights, mean and standard deviation.

    Raises:
        ValueError: If the name or its tag is unknown, in which case the message names the nearest known names, or the
            backbone takes images of one size only, as most transformers do.
    """
    argument_checks.kind("backbone", backbone, str, "the name of a timm model")
    architecture, _, tag = backbone.partition(".")
    if not timm.is_model(architecture):
        nearest = get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
        msg = f"timm has no backbone '{backbone}'; {_did_you_mean(nearest)}timm.list_models() lists all names."
        raise ValueError(msg)
    tagged = timm.list_models(f"{architecture}.*", pretrained=True)
    if tag and backbone not in tagged:
        nearest = get_close_matches(backbone, tagged, n=1, cutoff=0.0)
        msg = (
            f"timm's '{architecture}' has no pretrained tag '{tag}'; {_did_you_mean(nearest)}tags are: {_list(tagged)}."
        )
        raise ValueError(msg)
    config = get_pretrained_cfg(backbone)
    if config is None or config.fixed_input_size:
        msg = f"'{backbone}' takes images of one size only: STFPM needs a convolutional backbone."
        raise ValueError(msg)
    return config


def resolve_layers(
    backbone: str, layers: Sequence[str | int] | None, strides: Sequence[int] = PAPER_STRIDES
) -> list[str]:
    """Turn level names and indices into module names, shallowest first.

    Args:
        backbone: Name of a timm model.
        layers: Levels by module name or index; ``None`` takes those of the given strides.
        strides: Strides to take, in pixels of the image; those that the backbone does not have are left out.

    Raises:
        ValueError: If the backbone or a level is unknown, a level is named twice, there is none, or ``layers`` is
            ``None`` and the backbone has no level of the strides.

    Example:
        >>> resolve_layers("resnet18.tv_in1k", None)
        ['layer1', 'layer2', 'layer3']
        >>> resolve_layers("tf_efficientnet_lite0", [1, "blocks.2"])
        ['blocks.1', 'blocks.2']
    """
    return _resolve(backbone, available_levels(backbone), layers, strides)


@cache
def _levels_by_name(backbone: str) -> dict[str, int]:
    """Levels of a known backbone. timm says them only of a model that it has made, which takes a while."""
    with torch.device("meta"):
        return _levels(timm.create_model(backbone, pretrained=False))


def _levels(model: Any) -> dict[str, int]:  # noqa: ANN401  a timm model, see FeaturePyramid.backbone
    return {level["module"]: level["reduction"] for level in model.feature_info}


def _resolve(
    backbone: str,
    levels: Mapping[str, int],
    layers: Sequence[str | int] | None,
    strides: Sequence[int] = PAPER_STRIDES,
) -> list[str]:
    names = list(levels)
    choice = f"levels of {backbone} are: {_list(f'{i} {name}' for i, name in enumerate(names))}."
    if layers is None:
        # Where several levels share a stride, the deepest is the stage's output.
        deepest = {stride: name for name, stride in levels.items()}
        chosen = [deepest[stride] for stride in strides if stride in deepest]
        if not chosen:
            msg = f"{backbone} has no level of stride {_list(map(str, strides))}: name the layers; {choice}"
            raise ValueError(msg)
        return chosen
    if isinstance(layers, str | int) or not layers:
        msg = f"layers must be a list of at least one level, got {layers!r}; {choice}"
        raise ValueError(msg)
    resolved = []
    for layer in layers:
        if isinstance(layer, int) and not isinstance(layer, bool) and 0 <= layer < len(names):
            resolved.append(names[layer])
        elif isinstance(layer, str) and layer in levels:
            resolved.append(layer)
        else:
            nearest = get_close_matches(str(layer), names, n=1, cutoff=0.4)
            msg = f"{backbone} has no level {layer!r}; {_did_you_mean(nearest)}{choice}"
            raise ValueError(msg)
    duplicates = sorted({name for name in resolved if resolved.count(name) > 1})
    if duplicates:
        msg = f"layers must differ, but {_list(duplicates)} is named more than once in {list(layers)!r}."
        raise ValueError(msg)
    return sorted(resolved, key=names.index)


def _normalise_as_torchvision(module: nn.Module) -> None:
    """Start every normalisation gain at one, and set the momentum of running statistics to PyTorch's default."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm | nn.GroupNorm | nn.LayerNorm) and layer.weight is not None:
            nn.init.ones_(layer.weight)
        if isinstance(layer, _BatchNorm):
            layer.momentum = BATCH_NORM_MOMENTUM


def _did_you_mean(nearest: Sequence[str]) -> str:
    return f"did you mean {' or '.join(repr(name) for name in nearest)}? " if nearest else ""


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
