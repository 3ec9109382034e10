"""The Lightning module: its defaults, its arguments, and what it refuses."""

from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.models.components import GaussianBlur2d
from anomalib.pre_processing import PreProcessor
from omegaconf import OmegaConf
from torchvision.transforms.v2 import CenterCrop, Compose, Normalize, Pad, RandomCrop, Resize, Transform

from anomalib_stfpm import Stfpm


def transforms(model: Stfpm) -> tuple[Resize, Normalize]:
    pre_processor = model.pre_processor
    assert isinstance(pre_processor, PreProcessor)
    assert isinstance(pre_processor.transform, Compose)
    resize, normalize = pre_processor.transform.transforms
    return resize, normalize


def test_defaults_are_the_recommended_recipe() -> None:
    model = Stfpm()
    assert model.hparams == {
        "backbone": "resnet18.tv_in1k",
        "layers": ["layer1", "layer2", "layer3", "layer4"],
        "teacher_weights": "hub",
        "input_size": (256, 256),
        "map_size": None,
        "level_weights": None,
        "level_powers": [0.25, 0.5, 1.0, 1.0],
        "hard_mining": 0.1,
        "map_contrast": 0.5,
        "map_smoothing": 1.0,
        "learning_rate": 0.4,
        "schedule": "one_cycle",
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "false_alarm_rate": 0.01,
        "cache_budget": "auto",
        "exact_cache": False,
        "cache_dir": None,
    }
    resize, normalize = transforms(model)
    assert list(resize.size) == [256, 256]
    assert list(normalize.mean) == [0.485, 0.456, 0.406]
    assert list(normalize.std) == [0.229, 0.224, 0.225]


@pytest.mark.usefixtures("no_network")
def test_building_a_model_needs_no_network_and_no_file() -> None:
    assert not Stfpm(teacher_weights="hub").model.teacher_is_loaded
    assert not Stfpm(teacher_weights="nowhere.pth").model.teacher_is_loaded


def test_the_optimiser_is_sgd_over_the_student_with_the_given_constants() -> None:
    model = Stfpm(learning_rate=0.1, momentum=0.8, weight_decay=0.01, schedule="constant")
    optimizer = model.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.8, 0.01)
    assert {id(p) for p in group["params"]} == {id(p) for p in model.model.student.parameters()}


def test_mean_and_standard_deviation_are_those_of_the_backbone() -> None:
    resize, normalize = transforms(Stfpm(backbone="tf_efficientnet_lite0", input_size=(96, 128)))
    assert list(resize.size) == [96, 128]
    assert list(normalize.mean) == list(normalize.std) == [0.5, 0.5, 0.5]


def test_a_custom_pre_processor_is_used() -> None:
    class OfTheirOwn(PreProcessor):
        pass

    pre_processor = OfTheirOwn(Resize((64, 64)))
    assert Stfpm(pre_processor=pre_processor).pre_processor is pre_processor
    assert Stfpm(pre_processor=PreProcessor(pre_processor.transform)).pre_processor.transform is pre_processor.transform
    assert Stfpm(pre_processor=False).pre_processor is None


@pytest.mark.parametrize("own", [PreProcessor, type("OfTheirOwn", (PreProcessor,), {})])
@pytest.mark.parametrize("part", [CenterCrop(48), Pad(8), RandomCrop(48)])
def test_a_pre_processor_keeps_the_whole_image(own: type[PreProcessor], part: Transform) -> None:
    with pytest.raises(ValueError, match=f"must keep the whole image.*: remove {type(part).__name__}"):
        Stfpm(pre_processor=own(Compose([Resize((64, 64)), part])))


def test_a_checkpoint_that_crops_is_refused() -> None:
    saved = PreProcessor(Compose([Resize((64, 64)), CenterCrop(48)])).checkpoint_config()
    with pytest.raises(ValueError, match="remove CenterCrop"):
        Stfpm().pre_processor.load_checkpoint_config(saved)


def test_loss_and_map_get_their_arguments() -> None:
    model = Stfpm(layers=[1, 2], level_weights=[1, 2], level_powers=[1, 2], hard_mining=0.2, map_size=(8, 8))
    assert (model.model.map_contrast.power, model.loss.hard_mining) == (0.5, 0.2)
    assert model.model.anomaly_map.level_powers == [1, 2]
    assert isinstance(model.model.map_smoothing.blur, GaussianBlur2d)
    assert model.loss.level_weights.tolist() == [1, 2]
    assert model.model.anomaly_map.map_size == (8, 8)


def test_hyper_parameters_are_plain_values() -> None:
    arguments = OmegaConf.create({"layers": [1, "layer2"], "level_weights": [1, 2], "input_size": [64, 96]})
    hparams = Stfpm(**arguments, teacher_weights=Path("teacher.pth")).hparams
    assert type(hparams["layers"]) is list
    assert type(hparams["level_weights"]) is list
    assert hparams["input_size"] == (64, 96)
    assert hparams["teacher_weights"] == "teacher.pth"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"backbone": "resnet81"}, "did you mean 'resnet18'"),
        ({"layers": ["layer9"]}, "no level 'layer9'"),
        ({"input_size": (31, 256)}, "input_size must be a height and a width of at least 32 pixels"),
        ({"input_size": (256,)}, "input_size must be a height and a width of at least 32 pixels"),
        ({"map_size": (64, 0)}, "map_size must be a height and a width of at least 1 pixels"),
        (
            {"level_weights": [1, 1]},
            r"level_weights must have one number for each of \['layer1', 'layer2', 'layer3', 'layer4'\]",
        ),
        ({"level_powers": [1, 1]}, "level_powers must have one number for each of"),
        ({"level_powers": [1, 1, 1, -1]}, "level_powers must be finite"),
        ({"false_alarm_rate": 0}, "false_alarm_rate must be between 0 and 1, both excluded"),
        ({"hard_mining": 1}, "hard_mining must be a share of the positions, at least 0 and less than 1"),
        ({"level_weights": [1, -1, 1]}, "level_weights must be finite"),
        ({"learning_rate": 0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive"),
        ({"momentum": 1.0}, "momentum must be at least 0 and less than 1"),
        ({"weight_decay": -1e-4}, "weight_decay must be at least 0"),
    ],
)
def test_invalid_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stfpm(**arguments)


@pytest.mark.parametrize("export", ["to_torch", "to_onnx", "to_openvino"])
def test_an_untrained_model_is_not_exported(export: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Cannot export with an untrained Stfpm: train it first"):
        getattr(Stfpm(), export)(tmp_path)
    assert list(tmp_path.iterdir()) == []
