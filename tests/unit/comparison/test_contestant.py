"""Any model of anomalib can be compared, on the same backbone, weights and pre-processing."""

from typing import Any
from unittest.mock import patch

import anomalib.models
import pytest
import timm
import torch

from anomalib_stfpm import Stfpm
from anomalib_stfpm.comparison import DEFAULT_MODELS, Conditions, Contestant
from anomalib_stfpm.comparison.pretrained import pretrained
from tests.conftest import random_weights

CONDITIONS = Conditions(backbone="tf_efficientnet_lite0", teacher_weights="package", input_size=(64, 96))
CLASSES = (Stfpm, anomalib.models.Stfpm, anomalib.models.Patchcore, anomalib.models.Padim)


def made(contestant: Contestant, conditions: Conditions = CONDITIONS) -> Any:  # noqa: ANN401
    with pretrained(conditions.backbone, None):
        return contestant.make(conditions)


@pytest.mark.parametrize(("contestant", "expected"), list(zip(DEFAULT_MODELS, CLASSES, strict=True)))
def test_the_default_models_share_backbone_and_pre_processing(contestant: Contestant, expected: type) -> None:
    model = made(contestant)
    assert type(model) is expected
    assert model.hparams["backbone"] == "tf_efficientnet_lite0"
    resize, normalize = model.pre_processor.transform.transforms
    assert (resize.size, normalize.mean) == ([64, 96], [0.5, 0.5, 0.5])
    assert (model.evaluator, model.visualizer) == (None, None)


def test_levels_are_those_of_the_strides_that_a_model_takes_by_default() -> None:
    theirs, patchcore, padim = (made(contestant).hparams["layers"] for contestant in DEFAULT_MODELS[1:])
    assert list(theirs) == list(padim) == ["blocks.1", "blocks.2", "blocks.4"]
    assert list(patchcore) == ["blocks.2", "blocks.4"]


def test_arguments_of_its_own_come_first() -> None:
    model = made(
        Contestant("anomalib.models.Padim", init_args={"backbone": "resnet18", "layers": ["layer1"], "n_features": 9})
    )
    assert (model.hparams["backbone"], model.hparams["layers"]) == ("resnet18", ["layer1"])


def test_an_input_size_of_its_own_is_refused() -> None:
    with pytest.raises(ValueError, match="Large has an input_size, but all models see the same images: give cond"):
        made(Contestant("anomalib_stfpm.Stfpm", "Large", {"input_size": [512, 512]}))


def test_a_model_without_a_backbone_keeps_its_pre_processing_at_the_same_size() -> None:
    model = made(Contestant("anomalib.models.Ganomaly"), Conditions(input_size=(64, 64)))
    resize, *_ = model.pre_processor.transform.transforms
    assert resize.size == [64, 64]


def test_every_model_gets_the_weights_that_no_hub_is_asked_for(no_network: None) -> None:
    del no_network
    weights = random_weights("resnet18.tv_in1k")
    with pretrained("resnet18.tv_in1k", weights):
        model: Any = DEFAULT_MODELS[-1].make(Conditions())
    given = model.model.feature_extractor.feature_extractor.state_dict()
    assert given
    assert [key for key, value in given.items() if not torch.equal(value, weights[key])] == []


def test_weights_are_not_given_to_another_architecture() -> None:
    weights = random_weights("resnet18")
    with patch("timm.create_model") as create_model, pretrained("resnet18", weights):
        timm.create_model("resnet34", pretrained=True)
        assert create_model.call_args.kwargs == {"pretrained": True}
        timm.create_model("resnet18.a1_in1k", pretrained=True)
        assert create_model.call_args.kwargs["pretrained_cfg_overlay"]["state_dict"].keys() == weights.keys()


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("anomalib.models.Padim", "Padim"),
        ({"class_path": "anomalib.models.Padim", "name": "mine", "init_args": {"n_features": 5}}, "mine"),
        ({"class_path": "anomalib.models.Padim", "max_epochs": 3, "train_batch_size": 2}, "Padim"),
    ],
)
def test_what_users_write_is_read(given: Any, name: str) -> None:  # noqa: ANN401
    assert Contestant.read(given).name == name


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"name": "mine"}, "class_path is missing"),
        ({"class_path": "Padim", "epochs": 3}, "'epochs' is not known"),
        ({"class_path": "Padim", "max_epochs": 0}, "max_epochs of a model must be at least 1: got 0"),
        ({"class_path": "Padim", "train_batch_size": "many"}, "train_batch_size of a model must be a whole number"),
    ],
)
def test_what_is_no_model_is_refused(given: Any, sentence: str) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match=sentence):
        Contestant.read(given)


@pytest.mark.parametrize(
    ("contestant", "sentence"),
    [
        (Contestant("anomalib.models.Nothing"), "'anomalib.models.Nothing' is not the class path of an AnomalibModule"),
        (Contestant("torch.nn.ReLU"), "'torch.nn.ReLU' is not the class path of an AnomalibModule"),
        (Contestant("anomalib.models.Padim", init_args={"n_feature": 5}), "Padim cannot be made: .*n_feature"),
        (Contestant("anomalib.models.Padim", init_args={"backbone": "resnet"}), "timm has no backbone 'resnet'"),
    ],
)
def test_what_cannot_be_made_is_refused_in_a_sentence(contestant: Contestant, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as refused:
        made(contestant)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"max_epochs": 0}, "max_epochs must be at least 1: got 0"),
        ({"rounds": 0}, "rounds must be at least 1: got 0"),
        ({"time_limit": 0.0}, r"time_limit must be positive: got 0\.0"),
        ({"seconds": float("nan")}, "seconds must be positive: got nan"),
        ({"input_size": (0, 64)}, r"input_size must be a height and a width of at least 1 pixels: got \[0, 64\]"),
        ({"val_split_ratio": 1.0}, r"val_split_ratio must be between 0 and 1: got 1\.0"),
    ],
)
def test_conditions_are_checked(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Conditions(**arguments)
