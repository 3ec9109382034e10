"""The recipes of the quality benchmark do what their names say."""

import torch
import yaml

from anomalib_stfpm import Stfpm
from benchmarks.quality.variants import RECIPES, Changed, turned
from tests.readme import REPOSITORY


def test_images_are_turned_in_all_eight_ways() -> None:
    torch.manual_seed(0)
    image = torch.arange(12.0).view(3, 2, 2)
    seen = {tuple(turned(image).flatten().tolist()) for _ in range(200)}
    both = (image, image.flip(-1))
    assert seen == {tuple(torch.rot90(p, k, (-2, -1)).flatten().tolist()) for p in both for k in range(4)}


def test_a_recipe_with_another_batch_size_changes_nothing_else() -> None:
    recipe = RECIPES["batch 8"]
    assert isinstance(recipe.make, Changed)
    assert (recipe.make.arguments, recipe.make.strides, recipe.train_batch_size) == ({}, None, 8)


def test_the_tuned_recipe_is_that_of_the_configuration() -> None:
    path = REPOSITORY / "configs" / "tuned.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    arguments, recipe = config["model"]["init_args"], RECIPES["tuned"]
    assert Stfpm(**arguments).hparams == recipe.make(arguments["backbone"], arguments["teacher_weights"]).hparams
    assert config["data"]["init_args"]["train_batch_size"] == recipe.train_batch_size


def test_strides_choose_the_levels() -> None:
    model = Changed(strides=(8, 16, 32))("resnet18", "hub")
    assert model.hparams["layers"] == ["layer2", "layer3", "layer4"]
