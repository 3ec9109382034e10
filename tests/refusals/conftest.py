"""What the tests of rejected input share."""

from pathlib import Path

import pytest

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm_deploy import cli
from tests.conftest import write_image
from tests.integration.conftest import quiet_engine, tiny_model

from .harness import Done, Run, in_this_process


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command ``anomalib-stfpm``."""

    def command(*arguments: object) -> Done:
        return in_this_process(cli.main, ["anomalib-stfpm", *arguments], capsys, monkeypatch)

    return command


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny category, ``part``, to train and test with. Nothing may change it."""
    root = tmp_path_factory.mktemp("images")
    for index in range(2):
        write_image(root / "part" / "train" / "good" / f"{index}.png", seed=index)
        write_image(root / "part" / "test" / "good" / f"{index}.png", seed=10 + index)
        write_image(root / "part" / "test" / "bad" / f"{index}.png", seed=20 + index, defect=True)
    return root


@pytest.fixture(scope="session")
def checkpoint(images: Path, teacher_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a model that has been trained for a step. Nothing may change it."""
    folder = tmp_path_factory.mktemp("trained")
    engine = quiet_engine(folder, logger=False)
    engine.fit(tiny_model(teacher_file), datamodule=MVTecLayout(images, "part", num_workers=0))
    (written,) = folder.rglob("model.ckpt")
    return written


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``.xml`` file of that model. Nothing may change it."""
    return Stfpm.load_from_checkpoint(checkpoint, map_location="cpu").to_openvino(tmp_path_factory.mktemp("exported"))
