"""The recipes of the quality benchmark do what their names say."""

import yaml

from anomalib_stfpm import Stfpm
from benchmarks.quality.variants import RECIPES, Changed
from tests.readme import REPOSITORY


def test_a_recipe_with_another_batch_size_changes_nothing_else() -> None:
    recipe, default = RECIPES["batch 32"], RECIPES["default"]
    assert (recipe.make, recipe.train_batch_size, default.train_batch_size) == (default.make, 32, 8)


def test_the_default_recipe_is_that_of_the_configuration() -> None:
    path = REPOSITORY / "configs" / "stfpm.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    arguments, recipe = config["model"]["init_args"], RECIPES["default"]
    assert Stfpm(**arguments).hparams == recipe.make(arguments["backbone"], arguments["teacher_weights"]).hparams
    assert config["data"]["init_args"]["train_batch_size"] == recipe.train_batch_size


def test_strides_choose_the_levels() -> None:
    model = Changed(strides=(8, 16, 32))("resnet18", "hub")
    assert model.hparams["layers"] == ["layer2", "layer3", "layer4"]
