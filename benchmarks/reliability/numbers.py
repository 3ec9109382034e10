"""Measure how much scores and maps depend on precision, threads, batch size, memory layout, tiling and export.

The reference scores crops of a photograph in float64 with pretrained features. Each row of the table is another way to
compute the same: float32, bf16, one or two threads, one or 32 images at a time, channels first, tiled, or exported. It
shows the largest relative difference of a score, the largest difference of a pixel relative to the maximum of its map,
and the lowest correlation of a map with the reference, each with its bound:

    python -m benchmarks.reliability.numbers

The reference must equal the recorded one in ``benchmarks/results/reliability/numbers.json``. ``--write`` records it
again.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import openvino
import torch
from anomalib.data.utils.tiler import Tiler
from skimage import data as photographs

from anomalib_stfpm import StfpmModel
from anomalib_stfpm.backbone import teacher_weights
from anomalib_stfpm.loss import StfpmLoss
from anomalib_stfpm.reproduction import authors_stfpm
from anomalib_stfpm_deploy.files import write_text

BACKBONE = "tf_efficientnet_lite0"
REFERENCE = Path(__file__).parents[1] / "results" / "reliability" / "numbers.json"
IMAGES, SIZE = 32, 96

_SAME = 1e-5  # relative tolerance: the record has six digits
_CELLS = 4  # rows and columns of the cells whose means are recorded
_NOISE = 0.05  # of the student's weights, relative to the teacher's
_TILE = 64


@dataclass(frozen=True)
class Found:
    """Scores and maps of the images.

    Args:
        scores: Array of shape ``(N,)``.
        maps: Array of shape ``(N, H, W)``.
    """

    scores: "np.typing.NDArray[np.float64]"
    maps: "np.typing.NDArray[np.float64]"


@dataclass(frozen=True)
class Agreement:
    """Difference from the reference, or the bound of it.

    Args:
        score: Largest relative difference of a score.
        map: Largest difference of a pixel, relative to the maximum of its map.
        correlation: Lowest correlation of a map.
    """

    score: float
    map: float
    correlation: float

    def is_within(self, bound: "Agreement") -> bool:
        """Return whether no value is worse than its bound."""
        return self.score <= bound.score and self.map <= bound.map and self.correlation >= bound.correlation


_FLOAT32 = Agreement(1e-4, 1e-4, 0.999999)

BOUNDS = {
    "float32": _FLOAT32,
    "float32, 1 thread": _FLOAT32,
    "float32, 2 threads": _FLOAT32,
    "float32, 1 image at a time": _FLOAT32,
    "float32, channels first": _FLOAT32,
    "bf16": Agreement(0.4, 0.4, 0.98),
    "OpenVINO in float32": _FLOAT32,
    "OpenVINO in float32, 1 thread": _FLOAT32,
    "OpenVINO in float32, 1 image at a time": _FLOAT32,
    "tiles that overlap": Agreement(0.5, 0.9, 0.92),
}
"""Bound of each row. Tiles differ by more than rounding, because features at their edges lack the context."""


def crops() -> torch.Tensor:
    """Crop images from a photograph of bricks, of shape ``(32, 3, 96, 96)``, and darken a square in every other one."""
    photograph = photographs.brick()
    generator = np.random.default_rng(0)
    crops = np.empty((IMAGES, 1, SIZE, SIZE), np.float32)
    for index, crop in enumerate(crops):
        top, left = generator.integers(0, len(photograph) - SIZE, 2)
        crop[0] = photograph[top : top + SIZE, left : left + SIZE] / 255
        if index % 2:
            top, left = generator.integers(16, SIZE - 32, 2)
            crop[0, top : top + 12, left : left + 12] *= 0.4
    return torch.from_numpy(crops).expand(-1, 3, -1, -1).contiguous() * 2 - 1


def model() -> StfpmModel:
    """Make a model whose student is the teacher with noise on its weights."""
    made = StfpmModel(BACKBONE)
    made.load_teacher(teacher_weights.read(BACKBONE, "package"))
    generator = np.random.default_rng(0)
    state = made.teacher.state_dict()
    for name, value in state.items():
        if value.ndim > 1:  # of convolutions
            noise = torch.from_numpy(generator.standard_normal(value.shape, np.float32))
            state[name] = value * (1 + _NOISE * noise)
    made.student.load_state_dict(state)
    return made.eval()


def reference(images: torch.Tensor) -> tuple[Found, float]:
    """Compute scores, maps and the loss in float64."""
    network = model().double()
    with torch.no_grad():
        pyramids = network.teacher_pyramid(images.double()), network.student_pyramid(images.double())
        found = network.predict(*pyramids, images.shape[-2:])
        return _found(found), float(StfpmLoss()(*pyramids))


def plain(found: Found, loss: float) -> dict[str, Any]:
    """Round loss, scores and the means of each map in 4 x 4 cells to six digits."""
    side = SIZE // _CELLS
    cells = found.maps.reshape(-1, _CELLS, side, _CELLS, side).mean(axis=(2, 4))
    return {
        "loss": _rounded(loss),
        "scores": [_rounded(score) for score in found.scores],
        "maps": [[_rounded(cell) for cell in of_one.flatten()] for of_one in cells],
    }


def is_on_record(values: dict[str, Any]) -> bool:
    """Compare what :func:`plain` returned with the recorded reference."""
    recorded = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return recorded.keys() == values.keys() and all(
        np.allclose(values[name], recorded[name], rtol=_SAME, atol=0) for name in recorded
    )


def computed(images: torch.Tensor, folder: Path) -> Iterator[tuple[str, Found]]:
    """Yield the name of each row of :data:`BOUNDS` with its scores and maps. ``folder`` gets the exported model."""
    network = model()
    yield "float32", _by(network, images)
    for threads in (1, 2):
        with _threads(threads):
            yield f"float32, {threads} thread{'s' * (threads > 1)}", _by(network, images)
    yield "float32, 1 image at a time", _by(network, images, batch_size=1)
    with torch.autocast("cpu", torch.bfloat16):
        yield "bf16", _by(network, images)
    network.tiler = Tiler(_TILE, _TILE // 4)
    yield "tiles that overlap", _by(network, images)
    network.tiler = None
    yield "float32, channels first", _by(network.to(memory_format=torch.contiguous_format), images)

    exported: Any = authors_stfpm(backbone=BACKBONE, input_size=(SIZE, SIZE), pre_processor=False, post_processor=False)
    exported.model.load_state_dict(network.state_dict())
    path = exported.eval().to_openvino(folder, input_size=(SIZE, SIZE))
    for name, batch_size, threads in (("", IMAGES, 0), (", 1 thread", IMAGES, 1), (", 1 image at a time", 1, 0)):
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.compile_model(path, "CPU", settings)
        parts = [compiled(part.numpy()) for part in torch.split(images, batch_size)]
        named = {key: np.concatenate([part[key] for part in parts]) for key in ("pred_score", "anomaly_map")}
        yield f"OpenVINO in float32{name}", Found(named["pred_score"][:, 0], named["anomaly_map"][:, 0])


def agreement(found: Found, expected: Found) -> Agreement:
    """Return the differences from the reference."""
    score = np.abs(found.scores - expected.scores) / expected.scores
    maps = np.abs(found.maps - expected.maps).max(axis=(1, 2)) / expected.maps.max(axis=(1, 2))
    pairs = zip(found.maps, expected.maps, strict=True)
    correlation = min(np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in pairs)
    return Agreement(float(score.max()), float(maps.max()), float(correlation))


def main() -> int:
    """Print the table. The exit code is 1 if the reference has changed or a row exceeds its bound."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reliability.numbers", description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"record the reference again in {REFERENCE.name}")
    images = crops()
    expected, loss = reference(images)
    values = plain(expected, loss)
    if parser.parse_args().write:
        write_text(REFERENCE, json.dumps(values, indent=1) + "\n")
    too_far = not is_on_record(values)
    if too_far:
        print(f"The reference differs from the recorded one in {REFERENCE}.")
    print("| | score | bound | map | bound | correlation | bound |\n| --- | --- | --- | --- | --- | --- | --- |")
    with TemporaryDirectory() as folder:
        for name, found in computed(images, Path(folder)):
            bound, reached = BOUNDS[name], agreement(found, expected)
            differences = f"{reached.score:.1e} | {bound.score:.0e} | {reached.map:.1e} | {bound.map:.0e}"
            print(f"| {name} | {differences} | {reached.correlation:.6f} | {bound.correlation} |", flush=True)
            too_far |= not reached.is_within(bound)
    return int(too_far)


def _by(network: StfpmModel, images: torch.Tensor, batch_size: int = IMAGES) -> Found:
    with torch.no_grad():
        parts = [_found(network(part)) for part in torch.split(images, batch_size)]
    return Found(np.concatenate([part.scores for part in parts]), np.concatenate([part.maps for part in parts]))


def _found(prediction: Any) -> Found:  # noqa: ANN401  # the fields are optional in anomalib's type
    return Found(prediction.pred_score[:, 0].double().numpy(), prediction.anomaly_map[:, 0].double().numpy())


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")


if __name__ == "__main__":
    sys.exit(main())
