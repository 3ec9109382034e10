"""Arguments of the wrong kind or out of range, in Python."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch

from anomalib_stfpm import (
    AnomalyMap,
    FeaturePyramid,
    MapSmoothing,
    PublishedPRO,
    Stfpm,
    StfpmLoss,
    StfpmModel,
    available_levels,
)
from anomalib_stfpm.comparison import Conditions
from anomalib_stfpm.data import MVTecLayout, TextureDemo
from anomalib_stfpm.reproduction import Protocol

from .harness import refused

NAN, INF = math.nan, math.inf

STFPM: list[tuple[dict[str, Any], str]] = [
    ({"backbone": None}, "backbone must be the name of a timm model: got None."),
    ({"backbone": 18}, "backbone must be the name of a timm model: got 18."),
    ({"backbone": ""}, "timm has no backbone ''"),
    ({"backbone": "resnet81"}, "timm has no backbone 'resnet81'; did you mean 'resnet18'"),
    ({"backbone": "resnet18.nope"}, "timm's 'resnet18' has no pretrained tag 'nope'"),
    ({"backbone": "hf-hub:somebody/model"}, "timm has no backbone 'hf-hub:somebody/model'"),
    ({"backbone": "vit_base_patch16_224"}, "takes images of one size only: STFPM needs a convolutional backbone."),
    ({"layers": []}, "layers must be a list of at least one level, got []"),
    ({"layers": "layer1"}, "layers must be a list of at least one level, got 'layer1'"),
    ({"layers": 7}, "layers must be a list of at least one level, got 7"),
    ({"layers": ["layer1", "layer1"]}, "layers must differ, but layer1 is named more than once"),
    ({"layers": ["layer1", 1]}, "layers must differ, but layer1 is named more than once"),
    ({"layers": ["layer9"]}, "has no level 'layer9'; did you mean 'layer"),
    ({"layers": [-1]}, "has no level -1"),
    ({"layers": [99]}, "has no level 99"),
    ({"layers": [1.5]}, "has no level 1.5"),
    ({"layers": [True]}, "has no level True"),
    ({"layers": [["layer1"]]}, "has no level ['layer1']"),
    ({"teacher_weights": None}, "teacher_weights must be 'hub', 'package' or the path of a file: got None."),
    ({"input_size": 256}, "input_size must be a height and a width of at least 32 pixels: got 256."),
    ({"input_size": (256,)}, "input_size must be a height and a width of at least 32 pixels: got [256]."),
    ({"input_size": "64"}, "input_size must be a height and a width of at least 32 pixels: got '64'."),
    ({"input_size": (64.5, 64)}, "input_size must be a height and a width of at least 32 pixels: got [64.5, 64]."),
    ({"input_size": (-64, 64)}, "input_size must be a height and a width of at least 32 pixels: got [-64, 64]."),
    ({"input_size": (31, 64)}, "input_size must be a height and a width of at least 32 pixels: got [31, 64]."),
    ({"input_size": (31, 64), "layers": ["layer4"]}, "of at least 32 pixels: got [31, 64]."),
    ({"map_size": 8}, "map_size must be a height and a width of at least 1 pixels: got 8."),
    ({"map_size": (0, 8)}, "map_size must be a height and a width of at least 1 pixels: got [0, 8]."),
    ({"map_size": (INF, 4)}, "map_size must be a height and a width of at least 1 pixels: got [inf, 4]."),
    ({"level_weights": 1}, "level_weights must be finite numbers, none negative and not all zero: got 1."),
    ({"level_weights": "123"}, "level_weights must be finite numbers, none negative and not all zero: got '123'."),
    (
        {"level_weights": [1, 2]},
        "level_weights must have one number for each of ['layer1', 'layer2', 'layer3', 'layer4']",
    ),
    ({"level_weights": [0, 0, 0]}, "none negative and not all zero: got [0.0, 0.0, 0.0]."),
    ({"level_weights": [NAN, 1, 1]}, "level_weights must be finite numbers"),
    ({"level_weights": [1, INF, 1]}, "level_weights must be finite numbers"),
    ({"level_weights": [1, -1, 1]}, "level_weights must be finite numbers"),
    ({"level_powers": []}, "level_powers must be finite numbers, none negative and not all zero: got []."),
    ({"level_powers": "1111"}, "level_powers must be finite numbers, none negative and not all zero: got '1111'."),
    ({"level_powers": [1, 1]}, "level_powers must have one number for each of"),
    ({"hard_mining": 1}, "hard_mining must be a share of the positions, at least 0 and less than 1: got 1."),
    ({"false_alarm_rate": 1}, "false_alarm_rate must be between 0 and 1, both excluded: got 1."),
    ({"hard_mining": None}, "hard_mining must be a share of the positions, at least 0 and less than 1: got None."),
    ({"map_contrast": 1}, "map_contrast must be a power of at least 0 and less than 1: got 1."),
    ({"map_contrast": "much"}, "map_contrast must be a power of at least 0 and less than 1: got 'much'."),
    ({"map_smoothing": -1}, "map_smoothing must be a standard deviation in pixels, not negative: got -1."),
    ({"map_smoothing": NAN}, "map_smoothing must be a standard deviation in pixels, not negative: got nan."),
    ({"map_smoothing": None}, "map_smoothing must be a standard deviation in pixels, not negative: got None."),
    ({"learning_rate": 0}, "learning_rate must be positive: got 0."),
    ({"learning_rate": "fast"}, "learning_rate must be positive: got 'fast'."),
    ({"learning_rate": INF}, "learning_rate must be positive: got inf."),
    ({"schedule": "cosine"}, "schedule must be one of constant, one_cycle: got 'cosine'."),
    ({"schedule": None}, "schedule must be one of constant, one_cycle: got 'None'."),
    ({"momentum": 1}, "momentum must be at least 0 and less than 1: got 1."),
    ({"momentum": True}, "momentum must be at least 0 and less than 1: got True."),
    ({"weight_decay": -1}, "weight_decay must be at least 0: got -1."),
    ({"weight_decay": [0.1]}, "weight_decay must be at least 0: got [0.1]."),
    ({"cache_budget": "much"}, "cache_budget must be 'auto' or a number of bytes such as 500MB or 2GiB"),
    ({"cache_budget": -1}, "cache_budget must be 'auto' or a number of bytes"),
    ({"cache_budget": None}, "cache_budget must be 'auto' or a number of bytes"),
    ({"exact_cache": "yes"}, "exact_cache must be True or False: got 'yes'."),
]


@pytest.mark.parametrize(("arguments", "sentence"), STFPM, ids=lambda case: str(case) if isinstance(case, dict) else "")
def test_the_model_rejects(arguments: dict[str, Any], sentence: str) -> None:
    with refused(sentence):
        Stfpm(**arguments)


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ({"pre_processor": "resize"}, "torch.nn.modules.module.Module"),
        ({"post_processor": 5}, "torch.nn.modules.module.Module"),
        ({"evaluator": "AUROC"}, "anomalib.metrics.evaluator.Evaluator"),
        ({"visualizer": 3}, "anomalib.visualization.base.Visualizer"),
    ],
    ids=str,
)
def test_anomalib_rejects_components_of_another_type(arguments: dict[str, Any], kind: str) -> None:
    with pytest.raises(TypeError, match=f"Passed object should be <class '{kind}'> or bool, got: <class"):
        Stfpm(**arguments)


@pytest.mark.parametrize(
    ("layers", "strides"),
    [
        (["layer3", "layer1"], [4, 16]),  # out of order
        ([2, "layer1"], [4, 8]),
        (["layer4"], [32]),
    ],
    ids=str,
)
def test_levels_are_taken_in_any_order_and_come_out_shallowest_first(layers: list[Any], strides: list[int]) -> None:
    levels = available_levels("resnet18")
    assert [levels[layer] for layer in Stfpm("resnet18", layers).hparams["layers"]] == strides


@pytest.mark.parametrize("layers", [["features.conv0", "features.norm0"], ["layer1.0", "layer1.1"]], ids=str)
def test_modules_that_are_not_levels_are_rejected(layers: list[str]) -> None:
    with refused("has no level"):
        Stfpm("resnet18", layers)


def levels(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.ones(shape, dtype=dtype) for shape in shapes]


ONE = levels((1, 2, 4, 4))
BATCH = ImageBatch(image=torch.zeros(1, 3, 4, 4), anomaly_map=torch.rand(1, 4, 4), gt_mask=torch.ones(1, 4, 4))


def prediction(*shape: int, dtype: torch.dtype = torch.float32) -> object:
    return StfpmModel("resnet18").eval()(torch.zeros(shape, dtype=dtype))


def updated(metric: Any, **fields: torch.Tensor) -> None:  # noqa: ANN401  # a metric, which type checkers think abstract
    metric.update(BATCH.update(in_place=False, **fields))


PARTS: dict[str, tuple[Callable[[], object], str]] = {
    "model, no backbone": (lambda: StfpmModel("nothing"), "timm has no backbone 'nothing'"),
    "model, map size": (lambda: StfpmModel("resnet18", map_size=(0, 1)), "map_size must be a height and a width"),
    "model, contrast": (lambda: StfpmModel("resnet18", map_contrast=2), "map_contrast must be a power of at least 0"),
    "model, smoothing": (lambda: StfpmModel("resnet18", map_smoothing=INF), "map_smoothing must be a standard"),
    "model, one pixel": (lambda: prediction(1, 3, 1, 1), "image_size must be a height and a width of at least 4 pix"),
    "model, grey": (lambda: prediction(1, 1, 64, 64), "Images must be a floating-point tensor of shape (N, 3, H, W)"),
    "model, no batch": (lambda: prediction(3, 64, 64), "of shape (N, 3, H, W): got torch.float32 of shape (3, 64, 64)"),
    "model, bytes": (lambda: prediction(1, 3, 64, 64, dtype=torch.uint8), "a floating-point tensor of shape (N, 3, H"),
    "model, use untrained": (lambda: StfpmModel("resnet18").require_teacher("test"), "Cannot test with an untrained"),
    "pyramid, backbone": (lambda: FeaturePyramid(5), "backbone must be the name of a timm model: got 5."),
    "pyramid, level": (lambda: FeaturePyramid("resnet18", [5]), "resnet18 has no level 5"),
    "pyramid, same level": (lambda: FeaturePyramid("resnet18", [0, "act1"]), "layers must differ, but act1 is named"),
    "pyramid, image": (lambda: FeaturePyramid("resnet18")(torch.zeros(2, 3)), "of shape (N, 3, H, W): got"),
    "levels of nothing": (lambda: available_levels("nothing"), "timm has no backbone 'nothing'"),
    "loss, weights": (lambda: StfpmLoss([]), "level_weights must be finite numbers"),
    "loss, weights of text": (lambda: StfpmLoss("abc"), "level_weights must be finite numbers"),
    "loss, one number": (lambda: StfpmLoss(5), "level_weights must be finite numbers"),
    "loss, no level": (lambda: StfpmLoss()([], []), "must have the same levels, at least one: got 0 and 0."),
    "loss, other levels": (lambda: StfpmLoss()(ONE, []), "must have the same levels, at least one: got 1 and 0."),
    "loss, other shape": (lambda: StfpmLoss()(ONE, levels((1, 3, 4, 4))), "(N, C, H, W): got (1, 2, 4, 4) and (1, 3"),
    "loss, no batch": (lambda: StfpmLoss()(levels((2, 4, 4)), levels((2, 4, 4))), "of level 0 must both be"),
    "loss, empty batch": (
        lambda: StfpmLoss()(levels((0, 2, 4, 4)), levels((0, 2, 4, 4))),
        "at least one, of one shape",
    ),
    "loss, whole numbers": (
        lambda: StfpmLoss()(levels((1, 2, 4, 4), dtype=torch.int), levels((1, 2, 4, 4), dtype=torch.int)),
        "must both be floating-point numbers",
    ),
    "loss, number of weights": (lambda: StfpmLoss([1, 1])(ONE, ONE), "must have one weight a level: got 2 for 1."),
    "map, size": (lambda: AnomalyMap((0, 4)), "map_size must be a height and a width of at least 1 pixels: got [0, 4]"),
    "map, one number": (lambda: AnomalyMap(4), "map_size must be a height and a width of at least 1 pixels: got 4."),
    "map, fraction": (lambda: AnomalyMap((4.5, 4)), "map_size must be a height and a width"),
    "map, tiny image": (
        lambda: AnomalyMap()(ONE, ONE, (3, 3)),
        "image_size must be a height and a width of at lea",
    ),
    "map, no image": (
        lambda: AnomalyMap((1, 1))(ONE, ONE, (0, 3)),
        "image_size must be a height and a width",
    ),
    "map, one side": (lambda: AnomalyMap()(ONE, ONE, (32,)), "image_size must be a height and a width"),
    "map, other shape": (
        lambda: AnomalyMap()(ONE, levels((1, 2, 4, 5)), (32, 32)),
        "got (1, 2, 4, 4) and (1, 2, 4, ",
    ),
    "map, wide blur": (lambda: MapSmoothing(5)(torch.zeros(1, 1, 8, 8)), "map_smoothing reaches"),
    "PRO, one threshold": (lambda: PublishedPRO(thresholds=1), "thresholds must be at least 2: got 1."),
    "PRO, text": (lambda: PublishedPRO(thresholds="all"), "thresholds must be a whole number: got 'all'."),
    "PRO, fraction": (lambda: PublishedPRO(thresholds=2.5), "thresholds must be a whole number: got 2.5."),
    "PRO, limit": (lambda: PublishedPRO(fpr_limit=0), "fpr_limit must be above 0 and at most 1: got 0."),
    "PRO, no limit": (lambda: PublishedPRO(fpr_limit=NAN), "fpr_limit must be above 0 and at most 1: got nan."),
    "PRO, fields": (lambda: PublishedPRO(fields=["anomaly_map"]), "fields must be two, of maps and of masks"),
    "PRO, nothing seen": (lambda: PublishedPRO().compute(), "PublishedPRO has seen no images"),
    "PRO, other size": (
        lambda: updated(PublishedPRO(), gt_mask=torch.ones(1, 2, 8)),
        "maps and masks must have",
    ),
    "PRO, no masks": (lambda: updated(PublishedPRO(), gt_mask=None), "gt_mask"),
    "demo, category": (
        lambda: TextureDemo(category="wall"),
        "has no category 'wall': choose from brick, grass,",
    ),
    "demo, number": (lambda: TextureDemo(category=5), "has no category '5': choose from brick"),
    "demo, root": (lambda: TextureDemo(root=5), "root must be the path of a folder, or None for"),
    "layout, no root": (lambda: MVTecLayout(None, "screw"), "root must be the path of a folder: got None."),
    "layout, no category": (lambda: MVTecLayout(".", None), "category must be the name of a folder in root: got None."),
    "layout, nowhere": (lambda: MVTecLayout("nowhere", "screw"), "is not in MVTec AD's layout: it has no folder"),
    "conditions, epochs": (lambda: Conditions(max_epochs=0), "max_epochs must be at least 1: got 0."),
    "conditions, text": (lambda: Conditions(rounds="ten"), "rounds must be a whole number: got 'ten'."),
    "conditions, size": (lambda: Conditions(input_size=(64,)), "input_size must be a height and a width"),
    "conditions, share": (lambda: Conditions(val_split_ratio=1), "val_split_ratio must be between 0 and 1: got 1."),
    "conditions, time": (lambda: Conditions(time_limit=NAN), "time_limit must be positive: got nan."),
    "protocol, batch": (lambda: Protocol(train_batch_size=0), "train_batch_size must be at least 1: got 0."),
    "protocol, text": (lambda: Protocol(max_epochs="all"), "max_epochs must be a whole number: got 'all'."),
    "protocol, share": (lambda: Protocol(val_split_ratio=NAN), "val_split_ratio must be between 0 and 1: got nan."),
    "protocol, workers": (lambda: Protocol(num_workers=-1), "num_workers must be at least 0: got -1."),
}


@pytest.mark.parametrize(("do", "sentence"), PARTS.values(), ids=PARTS)
def test_a_component_rejects(
    do: Callable[[], object], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with refused(sentence, tmp_path):
        do()


def test_an_image_smaller_than_the_deepest_stride_gives_a_map() -> None:
    assert StfpmModel("resnet18").eval()(torch.rand(1, 3, 8, 8)).anomaly_map.shape == (1, 1, 8, 8)
