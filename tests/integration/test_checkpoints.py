"""Checkpoints hold what their use needs, and no tensor twice."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from anomalib_stfpm import Stfpm
from anomalib_stfpm.data import MVTecLayout
from tests.conftest import CategoryWriter

from .conftest import quiet_engine, tiny_model
from .test_student_selection import Noise, held_out

pytestmark = pytest.mark.integration

LARGE = 1024  # bytes


def tensors(value: Any) -> Iterator[torch.Tensor]:  # noqa: ANN401
    """All tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from tensors(inner)


def duplicates(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the large tensors that a checkpoint holds more than once."""
    large = [each for each in tensors(torch.load(path, weights_only=True)) if each.nbytes > LARGE]
    contents = [(each.shape, each.contiguous().numpy().tobytes()) for each in large]
    return [tuple(shape) for shape, content in contents if contents.count((shape, content)) > 1]


@pytest.mark.parametrize("amounts", [(0.1, 0.01), (0.01, 0.1)], ids=["last student kept", "earlier student kept"])
def test_each_checkpoint_holds_what_it_is_for_and_no_tensor_twice(
    amounts: tuple[float, float], write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    engine = quiet_engine(tmp_path, max_epochs=2, callbacks=[Noise(*amounts)])
    engine.fit(tiny_model(teacher_file), datamodule=held_out(write_category("part")))
    model_file = Path(engine.best_model_path)
    best_file = model_file.with_name("best.ckpt")
    assert duplicates(model_file) == []
    assert duplicates(best_file) == []
    best, last = (torch.load(path, weights_only=True) for path in (best_file, model_file))
    assert {"optimizer_states", "callbacks"} <= last.keys()
    assert not {"optimizer_states", "callbacks"} & best.keys()
    student = sum(each.nbytes for key, each in last["state_dict"].items() if key.startswith("model.student."))
    kept_apart = amounts[0] < amounts[1]
    assert best_file.stat().st_size < 2.1 * student
    assert model_file.stat().st_size < (4.1 if kept_apart else 3.1) * student


def test_training_from_best_ckpt_names_the_checkpoint_to_give(
    write_category: CategoryWriter, teacher_file: Path, tmp_path: Path
) -> None:
    engine = quiet_engine(tmp_path)
    datamodule = held_out(write_category("part"))
    engine.fit(tiny_model(teacher_file), datamodule=datamodule)
    best = Path(engine.best_model_path).with_name("best.ckpt")
    again = MVTecLayout(root=datamodule.root.parent, category="part", num_workers=0)
    with pytest.raises(ValueError, match=r"such as best\.ckpt or an imported student: give the model\.ckpt"):
        quiet_engine(tmp_path).fit(Stfpm(visualizer=False), datamodule=again, ckpt_path=best)
