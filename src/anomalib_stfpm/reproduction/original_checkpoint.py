"""Import of the students that the authors published."""

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from lightning.pytorch import Trainer

from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.checkpoint import safe_io
from anomalib_stfpm.lightning_model import PAPER_BACKBONE
from anomalib_stfpm.reproduction.protocol import authors_stfpm
from anomalib_stfpm_deploy import files

_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
"""Modules of torchvision's ResNet by their index in the authors' Sequential. The others have no weights."""

_KEY = re.compile(r"model\.(\d+)\.(.+)")
_UNUSED_CHILDREN = ("layer4.",)
_CLASSIFIER = "fc."
_COUNTER = "num_batches_tracked"


def import_checkpoint(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    teacher: str | Path = teacher_weights.HUB,
) -> Path:
    """Convert a student that the authors published into a checkpoint to test, predict and export with.

    The published file, ``best.pth.tar``, is a dictionary whose ``state_dict`` holds a ResNet-18 of torchvision as a
    Sequential. Names and shapes of all weights are checked. Those up to ``layer3`` become the student, those of
    ``layer4`` are optional and not used. The file is read with ``weights_only=True``, so no code in it can run.

    The published file has no thresholds, so scores and maps of the checkpoint are not normalised.

    Args:
        path: The published file.
        output: The checkpoint to write, ``.ckpt``.
        teacher: Weights of the teacher: ``hub``, or a file with ResNet-18 weights.

    Returns:
        The path of the checkpoint.

    Raises:
        FileExistsError: If ``output`` exists.
        FileNotFoundError: If the file or the teacher's weights are missing.
        ConnectionError: If the hub with the teacher's weights is out of reach.
        ValueError: If the file is damaged, could run code, or holds another network.

    Example:
        >>> import_checkpoint("nothing.pth.tar", "student.ckpt")
        Traceback (most recent call last):
        ...
        FileNotFoundError: 'nothing.pth.tar' is not a file: give a student that the authors published, best.pth.tar.
    """
    path, output = Path(path), Path(output)
    if output.exists():
        msg = f"'{output}' exists and is not replaced: give another output, or remove it first."
        raise FileExistsError(msg)
    student = _student(path)
    model = authors_stfpm(teacher_weights=teacher)
    model.model.load_teacher(teacher_weights.read(PAPER_BACKBONE, teacher))
    model.model.student.load_backbone(student)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    trainer.strategy.connect(model)
    with files.replacing(output) as temporary:
        trainer.save_checkpoint(temporary, weights_only=True)
    return output


def _student(path: Path) -> dict[str, torch.Tensor]:
    """Read a published student, with the names of timm's ResNet-18."""
    if not path.is_file():
        msg = f"'{path}' is not a file: give a student that the authors published, best.pth.tar."
        raise FileNotFoundError(msg)
    published = safe_io.load_safely(path, "give the file as the authors published it")
    state_dict = published.get("state_dict") if isinstance(published, Mapping) else None
    if not isinstance(state_dict, Mapping) or not all(isinstance(value, torch.Tensor) for value in state_dict.values()):
        msg = f"'{path}' is not a student of the authors: it has no tensors under 'state_dict'."
        raise ValueError(msg)
    shapes = teacher_weights.expected_shapes(PAPER_BACKBONE)
    expected = {name: shape for name, shape in shapes.items() if not name.startswith(_CLASSIFIER)}
    student: dict[str, torch.Tensor] = {}
    problems = []
    for key, value in state_dict.items():
        match = _KEY.fullmatch(str(key))
        name = f"{_CHILDREN.get(match[1], '?')}.{match[2]}" if match else "?"
        if name not in expected:
            problems.append(f"'{key}' is not part of it")
        elif value.shape != expected[name]:
            problems.append(f"'{key}' has shape {tuple(value.shape)} instead of {tuple(expected[name])}")
        else:
            student[name] = value
    problems += [
        f"'{name}' is missing"
        for name in expected
        if name not in student and not name.startswith(_UNUSED_CHILDREN) and not name.endswith(_COUNTER)
    ]
    if problems:
        difference = teacher_weights.summarised(problems)
        msg = f"'{path}' does not hold a student of the authors, a ResNet-18 as a Sequential: {difference}."
        raise ValueError(msg)
    return student
