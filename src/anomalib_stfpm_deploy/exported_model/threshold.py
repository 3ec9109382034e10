"""``anomalib-stfpm threshold``: set the thresholds of an exported model from images that are known to be good."""

import argparse
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import openvino

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cli import Parser
from anomalib_stfpm_deploy.infer.normal_images import measure_thresholds
from anomalib_stfpm_deploy.network import F32, PRECISIONS, THROUGHPUT, Network, read_model
from anomalib_stfpm_deploy.thresholds import FALSE_ALARM_RATE, Thresholds

from . import graph

_STORED = re.compile(r'offset="(\d+)" size="(\d+)"')  # where a constant of the .xml file lies in the .bin file
_ALIGNMENT = 64


def parser() -> argparse.ArgumentParser:
    """Make the parser of the verb."""
    made = Parser(
        prog="anomalib-stfpm threshold",
        description="Set the thresholds of an exported model from images that are known to be good, and write them "
        "into it. Scores and maps are normalised again, so that both thresholds stay at 0.5.",
    )
    made.add_argument("model", type=Path, help=".xml file of the exported model, which is changed")
    made.add_argument("--normal-images", type=Path, nargs="+", required=True, help="images, and folders with images")
    made.add_argument(
        "--false-alarm-rate",
        type=float,
        default=FALSE_ALARM_RATE,
        help="share of normal images above the threshold (default: %(default)s)",
    )
    made.add_argument("--precision", choices=PRECISIONS, default=F32, help="floating-point precision to measure in")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit code.

    Raises:
        OSError: If a file of the model or an input is missing, or the model cannot be written.
        ValueError: If the model is not one, has no thresholds, or an argument is not valid.
    """
    given = parser().parse_args(arguments)
    if given.model.suffix != ".xml":
        msg = f"Thresholds are written into an .xml file with its .bin file: got '{given.model}'."
        raise ValueError(msg)
    if not given.model.is_file():
        msg = f"'{given.model}', a file of the model, does not exist."
        raise FileNotFoundError(msg)
    with files.lock_folder(given.model.parent):
        thresholds, number = _measured(given)
        note = f"image {thresholds.image:.6g} and pixel {thresholds.pixel:.6g} of the scale before, from {number} "
        write(given.model, thresholds, f"{note}normal images at a false-alarm rate of {given.false_alarm_rate:g}")
    print(
        f"Thresholds from {number} normal images: {thresholds.image:.6g} of scores, {thresholds.pixel:.6g} of pixels.\n"
        f"Wrote them into {given.model}, where they are at 0.5 again."
    )
    return 0


def _measured(given: argparse.Namespace) -> tuple[Thresholds, int]:
    network = Network(given.model, given.precision, THROUGHPUT, clamp=False)
    return measure_thresholds(network, given.normal_images, given.false_alarm_rate)


def write(path: Path, thresholds: Thresholds, note: str) -> None:
    """Write thresholds into a model.

    The two files of a model cannot be replaced at the same moment. So the new .bin file begins with the old one, and
    serves the old .xml file too: whenever it is interrupted, the model is the old or the new one.

    Args:
        path: The .xml file.
        thresholds: The thresholds, on the scale of scores and maps that are not clamped.
        note: What to write of them into the model.

    Raises:
        OSError: If it cannot be written.
        ValueError: If the model has no thresholds.
    """
    old_text, old_weights = path.read_text(encoding="utf-8"), path.with_suffix(".bin").read_bytes()
    model = read_model(path)
    graph.set_thresholds(model, thresholds)
    model.set_rt_info(note, ["anomalib_stfpm", "thresholds"])
    with TemporaryDirectory() as folder:
        saved = Path(folder, "model.xml")
        openvino.save_model(model, saved, compress_to_fp16=False)
        text, weights = _appended(
            old_text, old_weights, saved.read_text(encoding="utf-8"), saved.with_suffix(".bin").read_bytes()
        )
    del model  # Windows replaces no file that is in use
    files.write_bytes(path.with_suffix(".bin"), weights)
    files.write_text(path, text)


def _appended(old_text: str, old_weights: bytes, text: str, weights: bytes) -> tuple[str, bytes]:
    """Let a model find its constants in the old file of weights, to which only new ones are appended."""
    places = {}
    for offset, size in {(int(one[1]), int(one[2])) for one in _STORED.finditer(old_text)}:
        places[_digest(old_weights[offset : offset + size])] = offset
    appended = bytearray(old_weights)

    def move(stored: re.Match[str]) -> str:
        offset, size = int(stored[1]), int(stored[2])
        content = weights[offset : offset + size]
        key = _digest(content)
        if key not in places:
            appended.extend(bytes(-len(appended) % _ALIGNMENT))
            places[key] = len(appended)
            appended.extend(content)
        return f'offset="{places[key]}" size="{size}"'

    return _STORED.sub(move, text), bytes(appended)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
