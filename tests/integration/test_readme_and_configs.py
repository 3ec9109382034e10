"""The configurations train, hold the defaults where they say so, and are described; so is what goes wrong."""

import re
from pathlib import Path

import pytest
import yaml
from anomalib.cli import AnomalibCLI

from anomalib_stfpm import Stfpm, teacher_weights
from anomalib_stfpm.cli import VERBS as TRAINING_VERBS
from anomalib_stfpm.comparison import DEFAULT_MODELS, Contestant
from anomalib_stfpm.lightning_model import PAPER_MAX_EPOCHS
from anomalib_stfpm.reproduction import authors_stfpm
from anomalib_stfpm_deploy.cli import VERBS as DEPLOYMENT_VERBS
from anomalib_stfpm_deploy.optional_module import load
from tests.conftest import CategoryWriter, random_weights
from tests.readme import README, REPOSITORY

pytestmark = pytest.mark.integration

VERBS = {name: load(module) for name, module in {**TRAINING_VERBS, **DEPLOYMENT_VERBS}.items()}
CONFIGS = set((REPOSITORY / "configs").glob("*.yaml"))
REPRODUCE, COMPARE, BENCHMARK, TILED_ENSEMBLE = (
    REPOSITORY / "configs" / f"{name}.yaml" for name in ("reproduce", "compare", "benchmark", "tiled_ensemble")
)
OF_VERBS = {REPRODUCE, COMPARE, BENCHMARK, TILED_ENSEMBLE}


def test_what_the_readme_explains_is_what_is_said() -> None:
    section = README.partition("## When something goes wrong")[2].partition("\n## ")[0]
    explained = re.findall(r"^\| (?!---|what is said)(.+?) \| ", section, re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py")]
    joined = re.sub(r'"\s*f?"', "", "\n".join(sources))  # strings that go on in the next line
    assert len(explained) > 5
    assert [said for said in explained if said not in joined] == []


@pytest.mark.parametrize("config", sorted(CONFIGS - OF_VERBS), ids=lambda path: path.name)
def test_configurations_train_for_a_step(
    config: Path, write_category: CategoryWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teacher_weights, "read", lambda backbone, _: random_weights(backbone))
    pictures = ["--data", "MVTecAD", "--data.root", str(write_category("part")), "--data.category", "part"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--data.num_workers", "0"]
    trained = AnomalibCLI(["train", "--config", str(config), *pictures, *short, *quiet])
    assert trained.engine.trainer.global_step == 1
    assert "image_AUROC" in trained.engine.trainer.callback_metrics


def test_every_configuration_is_described_with_a_command_that_the_file_has_too() -> None:
    described = (REPOSITORY / "configs" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+\.yaml)` \| `(.+)` \|", described, re.MULTILINE)
    assert {REPOSITORY / "configs" / name for name, _ in rows} == CONFIGS
    for name, command in rows:
        text = (REPOSITORY / "configs" / name).read_text(encoding="utf-8")
        assert f"#   {command} --config configs/{name}" in text


def test_the_configuration_of_the_original_holds_the_defaults() -> None:
    config = yaml.safe_load((REPOSITORY / "configs" / "stfpm.yaml").read_text(encoding="utf-8"))
    arguments = config["model"]["init_args"]
    assert arguments.pop("map_size") == [size // 4 for size in arguments["input_size"]]
    assert arguments.pop("level_weights") == [1] * len(arguments["layers"])
    assert Stfpm(**arguments).hparams == Stfpm().hparams
    assert config["trainer"]["max_epochs"] == PAPER_MAX_EPOCHS
    assert config["data"]["init_args"]["val_split_mode"] == "from_train"
    assert config["data"]["init_args"]["val_split_ratio"] == 0.2


def test_the_configuration_of_the_comparison_holds_the_default_models() -> None:
    given = VERBS["compare"].parser().parse_args(["--config", str(COMPARE)])
    contestants = [Contestant.read(one) for one in given.models]
    assert contestants == list(DEFAULT_MODELS)


def test_the_configuration_of_the_reproduction_holds_the_defaults() -> None:
    parser = VERBS["reproduce"].parser()
    written = parser.parse_args(["--config", str(REPRODUCE), "--root", "pictures"])
    default = parser.parse_args(["--root", "pictures"])
    models = [authors_stfpm(**given.model.as_dict()).hparams for given in (written, default)]
    assert models[0] == models[1]
    for given in (written, default):
        given.pop("model")
        given.pop("config")
    assert written == default
