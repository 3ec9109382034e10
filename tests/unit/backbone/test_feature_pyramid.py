"""A feature pyramid has exactly the levels that were asked for, of any backbone."""

import pytest
import timm
import torch
import torchvision
from torch import nn

from anomalib_stfpm import FeaturePyramid, available_levels
from anomalib_stfpm.backbone.feature_pyramid import resolve_layers
from tests.conftest import random_weights

BACKBONES = {
    "resnet18": ["layer1", "layer2", "layer3"],
    "resnet50": ["layer1", "layer2", "layer3"],
    "wide_resnet50_2": ["layer1", "layer2", "layer3"],
    "tf_efficientnet_lite0": ["blocks.1", "blocks.2", "blocks.4"],
    "mobilenetv3_large_100": ["blocks.1", "blocks.2", "blocks.4"],
    "convnext_tiny": ["stages.0", "stages.1", "stages.2"],
}


@pytest.mark.parametrize(("backbone", "layers"), BACKBONES.items())
def test_default_levels_have_strides_4_8_16_and_nothing_is_computed_in_vain(backbone: str, layers: list[str]) -> None:
    pyramid = FeaturePyramid(backbone)
    levels = pyramid(torch.rand(2, 3, 64, 64))
    assert pyramid.layers == layers
    assert [level.shape[-2:] for level in levels] == [(16, 16), (8, 8), (4, 4)]
    torch.stack([level.mean() for level in levels]).sum().backward()
    assert [name for name, parameter in pyramid.named_parameters() if parameter.grad is None] == []


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0", "convnext_tiny"])
def test_features_are_those_of_timm(backbone: str) -> None:
    weights = random_weights(backbone)
    complete = timm.create_model(backbone, pretrained=False).eval()
    complete.load_state_dict(weights)
    pyramid = FeaturePyramid(backbone, [1, 2]).eval()
    pyramid.load_backbone(weights)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = complete.forward_intermediates(images, intermediates_only=True)
        for actual, index in zip(pyramid(images), [1, 2], strict=True):
            torch.testing.assert_close(actual, expected[index])


def test_weights_must_be_complete() -> None:
    weights = random_weights("resnet18")
    del weights["layer2.0.conv1.weight"]
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"layer2\.0\.conv1\.weight\""):
        FeaturePyramid("resnet18").load_backbone(weights)


def test_levels_by_index_by_name_and_mixed_are_the_same_and_ordered() -> None:
    by_name = resolve_layers("resnet18", ["layer1", "layer3"])
    assert by_name == resolve_layers("resnet18", [1, 3]) == resolve_layers("resnet18", [3, "layer1"])


def test_available_levels_are_named_with_their_strides() -> None:
    assert available_levels("convnext_tiny") == {"stages.0": 4, "stages.1": 8, "stages.2": 16, "stages.3": 32}


def test_levels_that_a_caller_changes_are_its_own() -> None:
    available_levels("resnet18").clear()
    assert list(available_levels("resnet18")) == ["act1", "layer1", "layer2", "layer3", "layer4"]


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet81", "no backbone 'resnet81'; did you mean 'resnet18'"),
        ("resnet18.tv_in2k", "no pretrained tag 'tv_in2k'; did you mean 'resnet18.tv_in1k'"),
        ("vit_tiny_patch16_224", "needs a convolutional backbone"),
        ("", "no backbone ''"),
    ],
)
def test_unknown_backbones_are_refused_with_the_nearest_name(backbone: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeaturePyramid(backbone)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["layr1"], r"no level 'layr1'; did you mean 'layer1'\? levels of resnet18 are: 0 act1, 1 layer1"),
        (["layer1", "layer7"], "no level 'layer7'"),
        ([1, 5], "no level 5"),
        ([-1], "no level -1"),
        ([True], "no level True"),
        ([1, "layer1"], "layer1 is named more than once"),
        (["layer1", "layer1"], "layer1 is named more than once"),
        ([], r"at least one level, got \[\]"),
        ("layer1", "must be a list"),
    ],
)
def test_wrong_levels_are_refused_and_never_dropped(layers: list[str | int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FeaturePyramid("resnet18", layers)


def test_a_resnet_student_starts_as_torchvision_starts_it() -> None:
    torch.manual_seed(0)
    student = FeaturePyramid("resnet18").backbone
    reference = torchvision.models.resnet18(weights=None)
    reference_modules = dict(reference.named_modules())
    compared = 0
    for name, module in student.named_modules():
        if isinstance(module, nn.Conv2d):
            # Both are drawn from N(0, 2 / fan_out); the smallest layer has 8,192 weights.
            assert module.weight.std().item() == pytest.approx(reference_modules[name].weight.std().item(), rel=0.04)
            assert abs(module.weight.mean().item()) < 0.05 * module.weight.std().item()
            compared += 1
        if isinstance(module, nn.BatchNorm2d):
            other = reference_modules[name]
            torch.testing.assert_close(module.weight, other.weight)
            torch.testing.assert_close(module.bias, other.bias)
            assert (module.momentum, module.eps) == (other.momentum, other.eps)
            compared += 1
    assert compared == 30


def test_running_statistics_move_by_a_tenth_whatever_the_family() -> None:
    momenta = {m.momentum for m in FeaturePyramid("tf_efficientnet_lite0").modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {0.1}
