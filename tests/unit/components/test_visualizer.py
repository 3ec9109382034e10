"""Each image has its picture, whatever it is called."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.visualization import ImageVisualizer

from anomalib_stfpm import Stfpm
from tests.conftest import write_image


@pytest.mark.parametrize("given", [True, ImageVisualizer(fields=["image"], field_size=(32, 32))])
def test_images_of_the_same_name_have_a_picture_each(given: Any, tmp_path: Path) -> None:  # noqa: ANN401
    names = ["a/x/1.jpg", "b/x/1.jpg", "b/x/2.jpg", "c/b/x/1.jpg"]
    for seed, name in enumerate(names):
        write_image(tmp_path / name, seed)
    visualizer: Any = Stfpm(visualizer=given).visualizer
    trainer = SimpleNamespace(default_root_dir=tmp_path / "out", datamodule=None)
    for _ in range(2):  # a second run writes to the same files
        for index in (0, 1):
            paths = [str(tmp_path / name) for name in names[2 * index : 2 * index + 2]]
            batch = ImageBatch(image=torch.zeros(2, 3, 64, 64), image_path=paths, anomaly_map=torch.zeros(2, 64, 64))
            visualizer.on_predict_batch_end(trainer, None, batch, batch, index)
    images = tmp_path / "out" / "images"
    written = sorted(str(path.relative_to(images)) for path in images.rglob("*.jpg"))
    assert written == ["b/x/1.jpg", "c/b/x/1.jpg", "x/1.jpg", "x/2.jpg"]
    if given is not True:
        assert (visualizer.fields, visualizer.field_size) == (["image"], (32, 32))


def test_values_above_1_of_raw_maps_are_shown_as_1(tmp_path: Path) -> None:
    write_image(tmp_path / "1.png", 0)
    visualizer: Any = Stfpm().visualizer
    pictures = []
    for value in (1.0, 1.2):
        trainer = SimpleNamespace(default_root_dir=tmp_path / "out", datamodule=None)
        maps = torch.full((1, 64, 64), value)
        batch = ImageBatch(image=torch.zeros(1, 3, 64, 64), image_path=[str(tmp_path / "1.png")], anomaly_map=maps)
        visualizer.on_predict_batch_end(trainer, None, batch, batch, 0)
        (file,) = (tmp_path / "out").rglob("*.png")
        pictures.append(file.read_bytes())
        assert float(batch.anomaly_map.max()) == pytest.approx(value)
    assert pictures[0] == pictures[1]
