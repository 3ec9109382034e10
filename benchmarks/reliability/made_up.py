"""Images of noise and a random teacher, for benchmarks that do not depend on what is learned."""

from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from anomalib_stfpm import Stfpm

BACKBONE = "resnet18"
SIZE = 64  # pixels

_WHITE = slice(20, 40)


def write_images(root: Path, category: str, train: int, good: int = 2, bad: int = 2) -> None:
    """Write a category in MVTec AD's layout. Images in ``bad`` have a white square."""
    generator = np.random.default_rng(0)
    for folder, number in (("train/good", train), ("test/good", good), ("test/bad", bad)):
        for index in range(number):
            pixels = generator.integers(0, 128, (SIZE, SIZE, 3), dtype=np.uint8)
            if folder == "test/bad":
                pixels[_WHITE, _WHITE] = 255
                mask = np.zeros((SIZE, SIZE), np.uint8)
                mask[_WHITE, _WHITE] = 255
                _write(root / category / "ground_truth" / "bad" / f"{index:03}.png", mask)
            _write(root / category / folder / f"{index:03}.png", pixels)


def _write(path: Path, pixels: "np.typing.NDArray[np.uint8]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_teacher(path: Path) -> None:
    """Write random weights of the backbone."""
    torch.manual_seed(0)
    save_file(timm.create_model(BACKBONE, pretrained=False).state_dict(), path)


def export(folder: Path) -> None:
    """Export a random model with OpenVINO, with thresholds from the images in the folder."""
    torch.manual_seed(0)
    model: Any = Stfpm(BACKBONE, ["layer1"], input_size=(SIZE, SIZE), visualizer=False).eval()
    model.model.load_teacher(timm.create_model(BACKBONE, pretrained=False).state_dict())
    pixels = [np.asarray(Image.open(path), np.float32) / 255 for path in sorted(folder.rglob("*.png"))]
    with torch.no_grad():
        found = model.model(model.pre_processor(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)))
        for kind, values in (("image", found.pred_score), ("pixel", found.anomaly_map)):
            lowest, highest = values.min(), values.max()
            named = {f"{kind}_min": lowest, f"{kind}_max": highest, f"_{kind}_threshold": (lowest + highest) / 2}
            for name, value in named.items():
                getattr(model.post_processor, name).copy_(value)
    model.to_openvino(folder)
