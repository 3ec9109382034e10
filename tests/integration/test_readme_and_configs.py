"""The configurations train, are described and have the defaults they name, and the explained error messages exist."""

import re
from pathlib import Path

import pytest
import yaml
from anomalib.cli import AnomalibCLI

from anomalib_stfpm import Stfpm
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.cli import VERBS as TRAINING_VERBS
from anomalib_stfpm.comparison import DEFAULT_MODELS, Contestant
from anomalib_stfpm.lightning_model import PAPER_MAX_EPOCHS
from anomalib_stfpm.reproduction import authors_stfpm
from anomalib_stfpm_deploy.cli import VERBS as DEPLOYMENT_VERBS
from anomalib_stfpm_deploy.machine import load
from tests.conftest import CategoryWriter, random_weights
from tests.readme import PAGES, README, REPOSITORY

pytestmark = pytest.mark.integration

VERBS = {name: load(module) for name, module in {**TRAINING_VERBS, **DEPLOYMENT_VERBS}.items()}
CONFIGS = set((REPOSITORY / "configs").glob("*.yaml"))
REPRODUCE, COMPARE, BENCHMARK, TILED_ENSEMBLE = (
    REPOSITORY / "configs" / f"{name}.yaml" for name in ("reproduce", "compare", "benchmark", "tiled_ensemble")
)
OF_VERBS = {REPRODUCE, COMPARE, BENCHMARK, TILED_ENSEMBLE}


def test_the_explained_messages_exist() -> None:
    explained = re.findall(r"^\| (?!---|message)(.+?) \| ", PAGES["troubleshooting.md"], re.MULTILINE)
    sources = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "src").rglob("*.py")]
    joined = re.sub(r'"\s*f?"', "", "\n".join(sources))  # strings that continue in the next line
    assert len(explained) > 5
    assert [message for message in explained if message not in joined] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 180


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(path, id=path.name, marks=pytest.mark.slow if path.name == "tiled.yaml" else ())
        for path in sorted(CONFIGS - OF_VERBS)
    ],
)
def test_configurations_train_for_a_step(
    config: Path, write_category: CategoryWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(teacher_weights, "read", lambda backbone, _: random_weights(backbone))
    root = write_category("part")
    if config.name == "folder.yaml":
        images = ["--data.root", str(root / "part"), "--data.normal_dir", "train/good", "--data.abnormal_dir", "test"]
    else:
        images = ["--data", "MVTecAD", "--data.root", str(root), "--data.category", "part"]
    short = ["--trainer.max_epochs", "1", "--trainer.limit_train_batches", "1", "--trainer.accelerator", "cpu"]
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--data.num_workers", "0"]
    trained = AnomalibCLI(["train", "--config", str(config), *images, *short, *quiet])
    assert trained.engine.trainer.global_step == 1
    assert "image_AUROC" in trained.engine.trainer.callback_metrics


def test_every_configuration_is_described_with_its_command() -> None:
    described = (REPOSITORY / "configs" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+\.yaml)` \| `(.+)` \|", described, re.MULTILINE)
    assert {REPOSITORY / "configs" / name for name, _ in rows} == CONFIGS
    for name, command in rows:
        text = (REPOSITORY / "configs" / name).read_text(encoding="utf-8")
        assert f"#   {command} --config configs/{name}" in text


def test_the_recommended_configuration_has_the_defaults() -> None:
    config = yaml.safe_load((REPOSITORY / "configs" / "stfpm.yaml").read_text(encoding="utf-8"))
    arguments = config["model"]["init_args"]
    assert Stfpm(**arguments).hparams == Stfpm().hparams


def test_the_original_configuration_is_that_of_the_paper() -> None:
    config = yaml.safe_load((REPOSITORY / "configs" / "original.yaml").read_text(encoding="utf-8"))
    arguments = config["model"]["init_args"]
    assert arguments.pop("map_size") == [size // 4 for size in arguments["input_size"]]
    arguments["map_size"] = None
    assert Stfpm(**arguments).hparams == authors_stfpm(level_weights=[1, 1, 1]).hparams
    assert config["trainer"]["max_epochs"] == PAPER_MAX_EPOCHS
    assert config["data"]["init_args"]["val_split_mode"] == "from_train"
    assert config["data"]["init_args"]["val_split_ratio"] == 0.2


def test_the_configuration_of_the_comparison_has_the_default_models() -> None:
    given = VERBS["compare"].parser().parse_args(["--config", str(COMPARE)])
    contestants = [Contestant.read(one) for one in given.models]
    assert contestants == list(DEFAULT_MODELS)


def test_the_configuration_of_the_reproduction_has_the_defaults() -> None:
    parser = VERBS["reproduce"].parser()
    written = parser.parse_args(["--config", str(REPRODUCE), "--root", "images"])
    default = parser.parse_args(["--root", "images"])
    models = [authors_stfpm(**given.model.as_dict()).hparams for given in (written, default)]
    assert models[0] == models[1]
    for given in (written, default):
        given.pop("model")
        given.pop("config")
    assert written == default
