"""Checkpoints, weights and published students that are damaged, of another model, or hostile."""

import os
import pickle
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from anomalib.cli.cli import main as anomalib
from safetensors.torch import save_file

from anomalib_stfpm import Stfpm, import_checkpoint
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.data import MVTecLayout
from tests.conftest import Hostile, random_weights
from tests.integration.conftest import quiet_engine

from .harness import in_this_process, refused, untouched

pytestmark = pytest.mark.integration

CODE_MAY_RUN = "is damaged or holds more than tensors and plain values, and is not read because that could run code"
WEIGHTS_MAY_RUN = "is damaged or holds more than tensors, and is not read because that could run code"

Change = Callable[[dict[str, Any]], Any]


def with_hyper_parameters(**changes: Any) -> Change:  # noqa: ANN401
    return lambda saved: {**saved, "hyper_parameters": {**saved["hyper_parameters"], **changes}}


def without(*keys: str) -> Change:
    return lambda saved: {key: value for key, value in saved.items() if key not in keys}


def with_state(change: Change) -> Change:
    return lambda saved: {**saved, "state_dict": change(saved["state_dict"])}


def of_anomalibs_stfpm(saved: dict[str, Any]) -> dict[str, Any]:
    state = {f"model.teacher_model.{key}": value for key, value in random_weights("resnet18").items()}
    return {**saved, "state_dict": state, "hyper_parameters": {"backbone": "resnet18", "layers": ["layer1", "layer2"]}}


CHANGED: dict[str, tuple[Change, str]] = {
    "no state": (without("state_dict"), "is not a checkpoint: a file that training wrote has state_dict and pytorch-l"),
    "no version": (without("pytorch-lightning_version"), "is not a checkpoint: a file that training wrote has state_d"),
    "state of a list": (with_state(list), "is not a checkpoint: its state_dict holds no named tensors."),
    "weights alone": (lambda saved: saved["state_dict"], "is not a checkpoint: a file that training wrote has"),
    "a tensor": (lambda _: torch.zeros(3), "is not a checkpoint: a file that training wrote has"),
    "a list": (lambda _: [1, 2], "is not a checkpoint: a file that training wrote has"),
    "empty state": (with_state(lambda _: {}), "is of another model than anomalib_stfpm.Stfpm, or of another version"),
    "a tensor less": (with_state(without("model.student.backbone.conv1.weight")), "conv1.weight' is missing"),
    "a tensor more": (
        with_state(lambda state: {**state, "model.more": torch.zeros(1)}),
        "'model.more' is not part of it",
    ),
    "another shape": (
        with_state(lambda state: {**state, "model.student.backbone.conv1.weight": torch.zeros(1)}),
        "'model.student.backbone.conv1.weight' has shape (1,) instead of (64, 3, 7, 7)",
    ),
    "no tensor": (
        with_state(lambda state: {**state, "model.student.backbone.conv1.weight": "text"}),
        "is of another model than anomalib_stfpm.Stfpm",
    ),
    "another backbone": (with_hyper_parameters(backbone="resnet34.tv_in1k"), "is of another model than anomalib_stfpm"),
    "unknown backbone": (with_hyper_parameters(backbone="resnet81"), "timm has no backbone 'resnet81'; did you mean"),
    "backbone of a hub": (with_hyper_parameters(backbone="hf-hub:a/b"), "timm has no backbone 'hf-hub:a/b'"),
    "a number as backbone": (with_hyper_parameters(backbone=5), "backbone must be the name of a timm model: got 5."),
    "unknown level": (with_hyper_parameters(layers=["layer9"]), "has no level 'layer9'"),
    "other levels": (
        with_hyper_parameters(layers=["layer1", "layer4"], level_powers=[1, 1]),
        "is of another model than anomalib_stfpm.Stfpm",
    ),
    "impossible map": (with_hyper_parameters(map_size=[0, 0]), "map_size must be a height and a width"),
    "anomalib's Stfpm": (of_anomalibs_stfpm, "is of another model than anomalib_stfpm.Stfpm"),
    "no version of a component": (
        with_state(lambda state: {key: value for key, value in state.items() if "image_threshold" not in key}),
        "is of another model than anomalib_stfpm.Stfpm, or of another version of it: 'post_processor._image_",
    ),
}


def changed(checkpoint: Path, change: Change, path: Path) -> Path:
    torch.save(change(torch.load(checkpoint, weights_only=True)), path)
    return path


@pytest.mark.parametrize(("change", "sentence"), CHANGED.values(), ids=CHANGED)
def test_a_checkpoint_of_another_model_is_rejected(
    change: Change, sentence: str, checkpoint: Path, tmp_path: Path
) -> None:
    path = changed(checkpoint, change, tmp_path / "changed.ckpt")
    with refused(sentence, tmp_path):
        Stfpm.load_from_checkpoint(path)


DAMAGED: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "half": lambda whole: whole[: len(whole) // 2],
    "all but a byte": lambda whole: whole[:-1],
    "the end alone": lambda whole: whole[-1000:],
    "text": lambda _: b"not a checkpoint",
    "noise": lambda _: bytes(range(256)) * 40,
}


@pytest.mark.parametrize("damage", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_checkpoint_is_rejected(damage: Callable[[bytes], bytes], checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged.ckpt"
    path.write_bytes(damage(checkpoint.read_bytes()))
    with refused(CODE_MAY_RUN, tmp_path):
        Stfpm.load_from_checkpoint(path)


@pytest.mark.skipif(os.name != "posix", reason="needs a link")
@pytest.mark.parametrize("given", ["nothing.ckpt", ".", "loop.ckpt"])
def test_a_checkpoint_that_is_not_a_file_is_rejected(given: str, tmp_path: Path) -> None:
    (tmp_path / "loop.ckpt").symlink_to("loop.ckpt")
    with refused("is not a file: give the checkpoint of a trained model", tmp_path):
        Stfpm.load_from_checkpoint(tmp_path / given)


@pytest.mark.parametrize(
    "change",
    [
        lambda saved: {**saved, "pytorch-lightning_version": "2.0.0"},
        lambda saved: {**saved, "pytorch-lightning_version": "99.0.0"},
        without("anomalib_components_enabled", "anomalib_pre_processor_config", "anomalib_post_processor_config"),
        without("optimizer_states", "lr_schedulers", "loops", "callbacks"),
        with_hyper_parameters(of_a_later_version=1),
    ],
    ids=["older Lightning", "later Lightning", "older anomalib", "weights only", "an argument more"],
)
def test_a_checkpoint_of_another_version_that_holds_the_same_tensors_is_read(
    change: Change, checkpoint: Path, tmp_path: Path
) -> None:
    with untouched(tmp_path):
        model = Stfpm.load_from_checkpoint(changed(checkpoint, change, tmp_path / "other.ckpt"))
    assert model.model.teacher_is_loaded


def hostile_files(folder: Path, checkpoint: Path, ran: Path) -> dict[str, Path]:
    """Files that would run code, in every form that a checkpoint may have."""
    saved = torch.load(checkpoint, weights_only=True)
    paths = {name: folder / f"{name}.ckpt" for name in ("whole", "inside", "arguments", "plain", "old", "swapped")}
    torch.save(Hostile(ran), paths["whole"])
    torch.save({**saved, "state_dict": {**saved["state_dict"], "model.more": Hostile(ran)}}, paths["inside"])
    torch.save(with_hyper_parameters(layers=Hostile(ran))(saved), paths["arguments"])
    paths["plain"].write_bytes(pickle.dumps(Hostile(ran)))
    torch.save({**saved, "more": Hostile(ran)}, paths["old"], _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(checkpoint) as whole, zipfile.ZipFile(paths["swapped"], "w") as swapped:
        for name in whole.namelist():
            is_pickle = name.endswith("data.pkl")
            swapped.writestr(name, pickle.dumps(Hostile(ran), protocol=2) if is_pickle else whole.read(name))
    return paths


FORMS = ["whole", "inside", "arguments", "plain", "old", "swapped"]
READERS: dict[str, Callable[[Path, Path], object]] = {
    "load_from_checkpoint": lambda path, _: Stfpm.load_from_checkpoint(path),
    "load_from_checkpoint, told to": lambda path, _: Stfpm.load_from_checkpoint(path, weights_only=False),
    "Engine.test": lambda path, root: engine(path).test(Stfpm(), datamodule=layout(root), ckpt_path=path),
    "Engine.validate": lambda path, root: engine(path).validate(Stfpm(), datamodule=layout(root), ckpt_path=path),
    "Engine.predict": lambda path, root: engine(path).predict(
        Stfpm(), data_path=root / "part/test/good", ckpt_path=path
    ),
    "Engine.fit": lambda path, root: engine(path).fit(Stfpm(), datamodule=layout(root), ckpt_path=path),
    "Engine.export": lambda path, _: engine(path).export(Stfpm(), "torch", ckpt_path=path, export_root=path.parent),
}


def engine(path: Path) -> Any:  # noqa: ANN401
    return quiet_engine(path.parent / "results", logger=False)


def layout(root: Path) -> MVTecLayout:
    return MVTecLayout(root, "part", num_workers=0)


@pytest.mark.parametrize("form", FORMS)
def test_no_format_of_a_checkpoint_runs_its_code(form: str, checkpoint: Path, tmp_path: Path) -> None:
    ran = tmp_path / "it ran"
    path = hostile_files(tmp_path, checkpoint, ran)[form]
    with refused(CODE_MAY_RUN, tmp_path):
        Stfpm.load_from_checkpoint(path)
    assert not ran.exists()


@pytest.mark.parametrize("read", READERS.values(), ids=READERS)
def test_no_reader_of_a_checkpoint_runs_its_code(
    read: Callable[[Path, Path], object], checkpoint: Path, images: Path, tmp_path: Path
) -> None:
    ran = tmp_path / "it ran"
    path = hostile_files(tmp_path, checkpoint, ran)["inside"]
    with refused(CODE_MAY_RUN, tmp_path):
        read(path, images)
    assert not ran.exists()


def test_a_setting_of_torch_does_not_let_code_in_a_checkpoint_run(
    checkpoint: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    ran = tmp_path / "it ran"
    path = hostile_files(tmp_path, checkpoint, ran)["inside"]
    with refused(CODE_MAY_RUN, tmp_path):
        READERS["Engine.test"](path, images)
    assert not ran.exists()


COMMANDS = [
    "test --data anomalib_stfpm.data.MVTecLayout --data.root {root} --data.category part",
    "train --data anomalib_stfpm.data.MVTecLayout --data.root {root} --data.category part",
    "predict --data {root}/part/test/good",
    "export --export_type openvino --export_root out",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.split()[0])
def test_no_command_runs_code_in_a_checkpoint(
    command: str,
    checkpoint: Path,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = tmp_path / "it ran"
    path = hostile_files(tmp_path, checkpoint, ran)["inside"]
    words = shlex.split(command.format(root=images))
    words += ["--model", "anomalib_stfpm.Stfpm", "--trainer.accelerator", "cpu", "--ckpt_path", str(path)]
    with untouched(tmp_path):
        done = in_this_process(anomalib, ["anomalib", *words], capsys, monkeypatch)
    assert done.code != 0
    assert CODE_MAY_RUN in done.output
    assert not ran.exists()


def test_training_does_not_resume_without_the_optimisers_state(checkpoint: Path, images: Path, tmp_path: Path) -> None:
    path = changed(checkpoint, without("optimizer_states", "lr_schedulers"), tmp_path / "weights.ckpt")
    with refused("Training cannot go on from a checkpoint without the optimiser's state", tmp_path):
        engine(path).fit(Stfpm(), datamodule=layout(images), ckpt_path=path)


WEIGHTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "a.pth": (lambda path, ran: torch.save({"state_dict": Hostile(ran)}, path), WEIGHTS_MAY_RUN),
    "a.pth.tar": (lambda path, ran: torch.save(Hostile(ran), path), WEIGHTS_MAY_RUN),
    "a.safetensors": (lambda path, ran: path.write_bytes(pickle.dumps(Hostile(ran))), "cannot be read as weights"),
    "b.pth": (lambda path, ran: path.write_bytes(pickle.dumps(Hostile(ran))), WEIGHTS_MAY_RUN),
    "c.pth": (lambda path, _: path.write_bytes(b""), "'{path}' "),
    "b.safetensors": (lambda path, _: path.write_bytes(b""), "cannot be read as weights"),
    "c.safetensors": (lambda path, _: path.write_bytes(b"\xff" * 100), "cannot be read as weights"),
    "d.pth": (lambda path, _: path.mkdir(), "is not a file: give the path of a .pth, .pth.tar or .safetensors file"),
    "e.pth": (
        lambda path, _: path.symlink_to(path),
        "is not a file: give the path of a .pth, .pth.tar or .safetensors",
    ),
    "d.safetensors": (
        lambda path, _: save_file({"a": torch.zeros(1)}, path),
        "but of another architecture: 'a' is not",
    ),
    "f.pth": (lambda path, _: torch.save(random_weights("resnet34"), path), "but of another architecture"),
    "g.pth": (lambda path, _: torch.save({"conv1.weight": "text"}, path), "holds more than named tensors"),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_other_weights_are_rejected_and_run_no_code(name: str, tmp_path: Path) -> None:
    make, sentence = WEIGHTS[name]
    path, ran = tmp_path / name, tmp_path / "it ran"
    make(path, ran)
    with refused(sentence.format(path=path), tmp_path):
        teacher_weights.read("resnet18.tv_in1k", path)
    assert not ran.exists()


STUDENTS: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "hostile": (lambda path, ran: torch.save({"state_dict": {"model.0.weight": Hostile(ran)}}, path), CODE_MAY_RUN),
    "hostile, plain": (lambda path, ran: path.write_bytes(pickle.dumps(Hostile(ran))), CODE_MAY_RUN),
    "empty": (lambda path, _: path.touch(), CODE_MAY_RUN),
    "a folder": (
        lambda path, _: path.mkdir(),
        "is not a file: give a student that the authors published, best.pth.tar.",
    ),
    "a list": (lambda path, _: torch.save([1], path), "it has no tensors under 'state_dict'."),
    "no tensors": (lambda path, _: torch.save({"state_dict": {"a": 1}}, path), "it has no tensors under 'state_dict'."),
    "of nothing": (lambda path, _: torch.save({"state_dict": {}}, path), "does not hold a student of the authors"),
    "of a torchvision model": (
        lambda path, _: torch.save({"state_dict": random_weights("resnet18")}, path),
        "does not hold a student of the authors, a ResNet-18 as a Sequential: 'conv1.weight' is not part of it",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), STUDENTS.values(), ids=STUDENTS)
def test_files_that_are_not_published_students_are_rejected_and_run_no_code(
    make: Callable[[Path, Path], object], sentence: str, teacher_file: Path, tmp_path: Path
) -> None:
    path, ran = tmp_path / "best.pth.tar", tmp_path / "it ran"
    make(path, ran)
    with refused(sentence, tmp_path):
        import_checkpoint(path, tmp_path / "student.ckpt", teacher_file)
    assert not ran.exists()
    assert not (tmp_path / "student.ckpt").exists()
