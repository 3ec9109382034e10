"""Published students become checkpoints with the same anomaly maps, and other files are refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.functional import interpolate, normalize

from anomalib_stfpm import Stfpm
from anomalib_stfpm.reproduction.original_checkpoint import import_checkpoint
from tests.conftest import Hostile


def sequential(network: nn.Module) -> nn.Sequential:
    """The authors' form of a torchvision ResNet: its children without the pooling and the classifier."""
    return nn.Sequential(*list(network.children())[:-2])


def random_resnet(seed: int, name: str = "resnet18") -> nn.Module:
    """A torchvision ResNet with random weights and running statistics."""
    torch.manual_seed(seed)
    network: nn.Module = getattr(torchvision.models, name)(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval()


def publish(network: nn.Module, path: Path, **torch_save: Any) -> Path:  # noqa: ANN401
    """Write a student as the authors do."""
    state_dict = {f"model.{key}": value for key, value in sequential(network).state_dict().items()}
    torch.save({"category": "carpet", "state_dict": state_dict}, path, **torch_save)
    return path


@pytest.fixture
def teacher(tmp_path: Path) -> tuple[nn.Module, Path]:
    network, path = random_resnet(1), tmp_path / "teacher.pth"
    torch.save(network.state_dict(), path)
    return network, path


def direct_map(teacher: nn.Module, student: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Compute the anomaly map with torchvision's networks alone."""
    product = torch.ones(len(images), 1, images.shape[-2] // 4, images.shape[-1] // 4)
    for depth in (5, 6, 7):  # up to and with layer1, layer2, layer3
        features = [normalize(sequential(network)[:depth](images), dim=1) for network in (teacher, student)]
        distance = (features[0] - features[1]).square().sum(1, keepdim=True)
        product *= interpolate(distance, size=product.shape[-2:], mode="bilinear", align_corners=False)
    return interpolate(product, size=images.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("torch_save", [{}, {"_use_new_zipfile_serialization": False}])
@torch.no_grad()
def test_maps_are_those_of_the_published_student(
    torch_save: dict[str, bool], teacher: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    network, weights = teacher
    student = random_resnet(2)
    path = publish(student, tmp_path / "best.pth.tar", **torch_save)
    checkpoint = import_checkpoint(path, tmp_path / "student.ckpt", weights)
    images = torch.randn(2, 3, 96, 128)
    model = Stfpm.load_from_checkpoint(checkpoint).eval()
    assert model.model.teacher_is_loaded
    torch.testing.assert_close(
        model.model(images).anomaly_map, direct_map(network, student, images), rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_layer4_and_batch_counters_are_optional(teacher: tuple[nn.Module, Path], tmp_path: Path) -> None:
    path = publish(random_resnet(2), tmp_path / "best.pth.tar")
    published = torch.load(path, weights_only=True)
    kept = {key: value for key, value in published["state_dict"].items() if not key.startswith("model.7.")}
    old = {key: value for key, value in kept.items() if not key.endswith("num_batches_tracked")}
    torch.save({"state_dict": old}, tmp_path / "old.pth.tar")
    whole, part = (
        Stfpm.load_from_checkpoint(
            import_checkpoint(tmp_path / f"{name}.pth.tar", tmp_path / f"{name}.ckpt", teacher[1])
        )
        for name in ("best", "old")
    )
    for key, value in whole.model.student.state_dict().items():
        assert torch.equal(part.model.student.state_dict()[key], value)


def without(path: Path, key: str) -> None:
    published = torch.load(path, weights_only=True)
    del published["state_dict"][key]
    torch.save(published, path)


def with_key(path: Path, key: str, shape: tuple[int, ...]) -> None:
    published = torch.load(path, weights_only=True)
    published["state_dict"][key] = torch.zeros(shape)
    torch.save(published, path)


DAMAGES: dict[str, tuple[Any, str]] = {
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "is damaged"),
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "text": (lambda path: path.write_text("not a checkpoint"), "is damaged"),
    "code": (lambda path: torch.save({"state_dict": {}, "x": Hostile(path.parent / "ran")}, path), "could run code"),
    "a list": (lambda path: torch.save([1, 2], path), "has no tensors under 'state_dict'"),
    "no student": (lambda path: torch.save({"category": "carpet"}, path), "has no tensors under 'state_dict'"),
    "no tensors": (lambda path: torch.save({"state_dict": {"a": 1}}, path), "has no tensors under 'state_dict'"),
    "another network": (
        lambda path: publish(random_resnet(2, "resnet34"), path),
        r"'model\.4\.2\.conv1.weight' is not",
    ),
    "a bottleneck": (
        lambda path: publish(random_resnet(2, "resnet50"), path),
        r"has shape \(64, 64, 1, 1\) instead of",
    ),
    "a key less": (lambda path: without(path, "model.6.1.bn2.bias"), r"'layer3\.1\.bn2\.bias' is missing"),
    "a key more": (lambda path: with_key(path, "model.2.weight", (1,)), r"'model\.2\.weight' is not part of it"),
    "a foreign key": (lambda path: with_key(path, "fc.weight", (1,)), r"'fc\.weight' is not part of it"),
    "another shape": (lambda path: with_key(path, "model.1.bias", (3,)), r"'model\.1\.bias' has shape \(3,\) instead"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_any_other_file_is_refused_and_nothing_is_written(
    damage: str, teacher: tuple[nn.Module, Path], tmp_path: Path
) -> None:
    spoil, message = DAMAGES[damage]
    path = publish(random_resnet(2), tmp_path / "best.pth.tar")
    spoil(path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message):
        import_checkpoint(path, tmp_path / "student.ckpt", teacher[1])
    assert sorted(tmp_path.iterdir()) == before


def test_missing_files_and_an_existing_output_are_refused(teacher: tuple[nn.Module, Path], tmp_path: Path) -> None:
    path, output = publish(random_resnet(2), tmp_path / "best.pth.tar"), tmp_path / "student.ckpt"
    with pytest.raises(FileNotFoundError, match=r"'.*nowhere' is not a file"):
        import_checkpoint(tmp_path / "nowhere", output, teacher[1])
    with pytest.raises(FileNotFoundError, match=r"teacher_weights 'nowhere\.pth' is not a file"):
        import_checkpoint(path, output, "nowhere.pth")
    assert not output.exists()
    output.write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not replaced"):
        import_checkpoint(path, output, teacher[1])
    assert output.read_text() == "mine"
