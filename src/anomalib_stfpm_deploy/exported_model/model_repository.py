"""``anomalib-stfpm model-repository``: write an exported model as OpenVINO Model Server and Triton load it."""

import argparse
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import openvino
from openvino.preprocess import PrePostProcessor, ResizeAlgorithm

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cli import Parser
from anomalib_stfpm_deploy.network import DEVICE, F32, Network, core, read_model

INPUT = "image"
OUTPUTS = ("pred_score", "pred_label", "anomaly_map")
CONFIG_FILE, TRITON_FILE = "config.json", "config.pbtxt"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of a folder, in an address and in both configurations
_TRITON_TYPES = {"f32": "TYPE_FP32", "boolean": "TYPE_BOOL", "u8": "TYPE_UINT8"}
_SETTINGS = {"INFERENCE_PRECISION_HINT": F32}
_LARGEST_DIFFERENCE = 0.02  # of scores and maps from 0 to 1; rounding moves those of 8 bits by steps
_NOISE_SIZE = (97, 131)  # of no model's input


def parser() -> argparse.ArgumentParser:
    """Make the parser of the verb."""
    made = Parser(
        prog="anomalib-stfpm model-repository",
        description="Write an exported model into a folder that OpenVINO Model Server and Triton's OpenVINO backend "
        "load. The model in it takes 8-bit RGB images of any size, and gives score, label and anomaly map. If the "
        "folder has the model already, a new version is added.",
    )
    made.add_argument("model", type=Path, help=".xml or .onnx file of the exported model")
    made.add_argument("--name", required=True, help="name of the model on the server")
    made.add_argument("--output", type=Path, required=True, help="folder of all models of the server")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the verb and return its exit code.

    Raises:
        OSError: If a file of the model is missing, or the output cannot be written.
        ValueError: If the model is not one, its name cannot be one, or the output holds other files of that name.
    """
    given = parser().parse_args(arguments)
    if not _NAME.fullmatch(given.name):
        msg = f"--name must be of letters, digits, '_', '.' and '-', and not begin with a sign: got '{given.name}'."
        raise ValueError(msg)
    model = with_pre_processing(read_model(given.model))
    with files.lock_folder(given.output):
        config = _with_entry(given.output / CONFIG_FILE, given.name)
        with _new_version(given.output / given.name) as folder:
            openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
            _check(folder / "model.xml", given.model)
        files.write_text(given.output / given.name / TRITON_FILE, _triton_configuration(model, given.name))
        files.write_text(given.output / CONFIG_FILE, json.dumps(config, indent=2) + "\n")
    print(f"Wrote {given.output / given.name}")
    return 0


def with_pre_processing(model: openvino.Model) -> openvino.Model:
    """Let a model take 8-bit RGB images of shape ``(N, H, W, 3)`` and of any size, resized as in training.

    Example:
        >>> from openvino import opset13
        >>> image = opset13.parameter([1, 3, 8, 8], np.float32)
        >>> score = opset13.reduce_max(image, [1, 2, 3])
        >>> score.output(0).set_names({"pred_score"})
        >>> with_pre_processing(openvino.Model([score], [image])).input(0).partial_shape.to_string()
        '[1,?,?,3]'
    """
    for result in model.get_results():
        names = [name for name in OUTPUTS if name in result.output(0).get_names()]
        if names:
            result.output(0).get_tensor().set_names({names[0]})
        else:
            model.remove_result(result)
    _, _, height, width = model.input(0).partial_shape
    made = PrePostProcessor(model)
    image = made.input()
    image.tensor().set_element_type(openvino.Type.u8).set_layout(openvino.Layout("NHWC")).set_spatial_dynamic_shape()
    steps = image.preprocess().convert_element_type(openvino.Type.f32).scale(255.0)
    if height.is_static and width.is_static:
        steps.resize(ResizeAlgorithm.RESIZE_BILINEAR_PILLOW)
    image.model().set_layout(openvino.Layout("NCHW"))
    model = made.build()
    model.input(0).get_tensor().set_names({INPUT})
    # Triton would take a dimension "N" for one that it may batch requests in, and not expect it in the configuration.
    model.get_parameters()[0].set_layout(openvino.Layout("?HWC"))
    return model


def _triton_configuration(model: openvino.Model, name: str) -> str:
    def tensors(ports: Sequence[Any]) -> str:
        return ",\n".join(
            f'  {{ name: "{port.any_name}", data_type: {_TRITON_TYPES[port.element_type.get_type_name()]}, '
            f"dims: [ {', '.join(map(str, _dimensions(port)))} ] }}"
            for port in ports
        )

    return (
        f'name: "{name}"\nbackend: "openvino"\nmax_batch_size: 0\n'
        f"input [\n{tensors(model.inputs)}\n]\noutput [\n{tensors(model.outputs)}\n]\n"
        "instance_group [ { kind: KIND_CPU } ]\n"
    )


def _dimensions(port: Any) -> list[int]:  # noqa: ANN401  # openvino's types are not known
    return [length.get_length() if length.is_static else -1 for length in port.partial_shape]


def _with_entry(path: Path, name: str) -> dict[str, Any]:
    """Return the configuration of OpenVINO Model Server with a model added or replaced, and all others as they are."""
    config: Any = {}
    if path.is_file():
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            models = [one for one in config.get("model_config_list", []) if one["config"]["name"] != name]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            msg = f"'{path}' is not a configuration of OpenVINO Model Server: give another output folder."
            raise ValueError(msg) from error
    else:
        models = []
    entry = {"config": {"name": name, "base_path": name, "plugin_config": _SETTINGS}}
    return {**config, "model_config_list": [*models, entry]}


@contextmanager
def _new_version(folder: Path) -> Iterator[Path]:
    """Make a folder for the next version of a model. Servers see it when it is complete."""
    with files.path_in_errors(folder):
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        temporary = Path(mkdtemp(prefix=".", dir=folder))
        try:
            yield temporary
            versions = [int(one.name) for one in folder.iterdir() if one.name.isdecimal()]
            temporary.chmod(folder.stat().st_mode)  # a temporary folder is closed to the server
            temporary.rename(folder / str(max(versions, default=0) + 1))
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            if made:
                folder.rmdir()
            raise


def _check(written: Path, model: Path) -> None:
    """Load what was written as a server does, and compare it with the exported model on noise."""
    served = core().compile_model(core().read_model(written), DEVICE, _SETTINGS)
    noise = np.random.default_rng(0).integers(0, 256, (*_NOISE_SIZE, 3), dtype=np.uint8)
    network = Network(model)
    expected = network.predict(network.prepare(noise))
    found = served(noise[np.newaxis])
    differences = [
        np.abs(found["pred_score"] - expected.score).max(),
        np.abs(found["anomaly_map"][0, 0] - expected.anomaly_map).max(),
    ]
    scale = max(1.0, abs(expected.score), float(np.abs(expected.anomaly_map).max()))
    if not max(differences) <= _LARGEST_DIFFERENCE * scale:
        msg = f"The model for servers differs from '{model}' by {max(differences):.3g}: report this with the model."
        raise ValueError(msg)
