"""The model repository serves the scores of ``infer``, over the protocol that servers speak."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
from PIL import Image

from anomalib_stfpm_deploy.exported_model import model_repository
from anomalib_stfpm_deploy.infer import verb
from anomalib_stfpm_deploy.network import Network
from tests.readme import PAGES

from .conftest import tiny_category, trained_for_a_step

pytestmark = pytest.mark.integration

TYPES = {"UINT8": np.uint8, "FP32": np.float32, "BOOL": np.bool_}


@pytest.fixture(
    scope="module",
    params=["fp32", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fp16", "int8_ptq", "any size"))],
)
def any_model(request: pytest.FixtureRequest, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Exported models of all precisions, and one that takes images of any size."""
    if request.param == "fp32":
        return exported
    folder = tmp_path_factory.mktemp(request.param)
    stfpm = trained_for_a_step("resnet18", visualizer=False)
    if request.param == "any size":
        return stfpm.to_openvino(folder, input_size=(-1, -1))
    return stfpm.to_openvino(folder, compression_type=request.param, datamodule=tiny_category(folder / "images"))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes, two of them with other numbers of channels."""
    folder = tmp_path_factory.mktemp("sizes")
    generator = np.random.default_rng(0)
    for index, size in enumerate([(64, 64), (150, 100), (31, 77), (400, 300)]):
        coarse = Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(size[::-1])
        coarse.save(folder / f"{index}.png")
    coarse.convert("L").save(folder / "grey.png")
    coarse.convert("RGBA").save(folder / "transparent.png")
    return folder


def written(model: Path, output: Path, name: str = "tiles") -> Path:
    assert model_repository.main([str(model), "--name", name, "--output", str(output)]) == 0
    return output


def inferred(model: Path, images: Path, output: Path) -> dict[str, dict[str, Any]]:
    """What ``infer`` has found, by the name of the image."""
    arguments = ["--model", model, "--input", images, "--output", output, "--no-pictures"]
    assert verb.main([str(one) for one in arguments]) == 0
    record = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return {one["picture"]: one for one in record["results"]}


class Server(ThreadingHTTPServer):
    """A server of the KServe protocol, version 2, that finds its models as OpenVINO Model Server does."""

    def __init__(self, config: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.compiled = {}
        for one in json.loads(config.read_text(encoding="utf-8"))["model_config_list"]:
            entry = one["config"]
            versions = (config.parent / entry["base_path"]).iterdir()
            latest = max((path for path in versions if path.name.isdecimal()), key=lambda path: int(path.name))
            core = openvino.Core()
            read = core.read_model(latest / "model.xml")
            self.compiled[entry["name"]] = core.compile_model(read, "CPU", entry["plugin_config"])


class Handler(BaseHTTPRequestHandler):
    """Answers requests with tensors as binary data after the JSON."""

    server: Server

    def do_POST(self) -> None:  # http.server looks for this name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        header = int(self.headers["Inference-Header-Content-Length"])
        (given,) = json.loads(body[:header])["inputs"]
        matched = re.fullmatch(r"/v2/models/([^/]+)/infer", self.path)
        assert matched
        compiled = self.server.compiled[matched[1]]
        assert given["name"] == compiled.input(0).any_name
        pixels = np.frombuffer(body[header:], TYPES[given["datatype"]]).reshape(given["shape"])
        outputs, data = [], b""
        for port, value in compiled(pixels).items():
            (datatype,) = (name for name, kind in TYPES.items() if value.dtype == kind)
            tensor = {"name": port.any_name, "datatype": datatype, "shape": value.shape}
            outputs.append({**tensor, "parameters": {"binary_data_size": value.nbytes}})
            data += value.tobytes()
        answer = json.dumps({"model_name": matched[1], "outputs": outputs}).encode()
        self.send_response(200)
        self.send_header("Inference-Header-Content-Length", str(len(answer)))
        self.send_header("Content-Length", str(len(answer) + len(data)))
        self.end_headers()
        self.wfile.write(answer + data)

    def log_message(self, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture
def address(any_model: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server that has the model."""
    with Server(written(any_model, tmp_path / "models") / "config.json") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_client_of_the_docs_gets_the_scores_of_infer(
    address: str, any_model: Path, images: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tritonclient.http")
    (client,) = re.findall(r"```python\n(.*?)```", PAGES["servers.md"], re.DOTALL)
    assert len(client.splitlines()) <= 20
    paths = [str(path) for path in sorted(images.iterdir())]
    done = subprocess.run([sys.executable, "-c", client, address, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = inferred(any_model, images, tmp_path / "inferred")
    lines = done.stdout.splitlines()
    assert len(lines) == len(paths)
    network = Network(any_model)
    for path, line in zip(paths, lines, strict=True):
        name, score, label, *shape = line.split(maxsplit=3)
        one = expected[Path(path).name]
        assert name == path
        assert float(score) == pytest.approx(one["score"], abs=0.02 if network.is_quantized else 1e-3)
        assert label == ("anomalous" if float(score) > 0.5 else "normal")
        assert shape == ["(64, 64)"]


def test_several_images_are_served_at_once(exported: Path, images: Path, tmp_path: Path) -> None:
    output = written(exported, tmp_path / "models")
    compiled = openvino.Core().compile_model(output / "tiles" / "1" / "model.xml", "CPU")
    image = np.asarray(Image.open(images / "1.png"))
    one, three = compiled(image[np.newaxis]), compiled(np.stack([image] * 3))
    for name, value in one.to_dict().items():
        np.testing.assert_allclose(three[name], np.concatenate([value] * 3), atol=1e-5)


def test_tritons_configuration_is_that_of_the_model(any_model: Path, tmp_path: Path) -> None:
    folder = written(any_model, tmp_path) / "tiles"
    served = openvino.Core().read_model(folder / "1" / "model.xml")
    text = (folder / "config.pbtxt").read_text(encoding="utf-8")
    assert text.startswith('name: "tiles"\nbackend: "openvino"\nmax_batch_size: 0\n')
    assert "kind: KIND_CPU" in text  # the backend refuses any other
    tensors = re.findall(r'name: "(\w+)", data_type: TYPE_(\w+), dims: \[ (.*?) \]', text)
    ports = [*served.inputs, *served.outputs]
    assert [name for name, *_ in tensors] == [port.any_name for port in ports]
    assert {name for name, *_ in tensors} == {"image", "pred_score", "pred_label", "anomaly_map"}
    for (_, datatype, dims), port in zip(tensors, ports, strict=True):
        assert TYPES[datatype] == port.element_type.to_dtype()
        lengths = [-1 if length.is_dynamic else length.get_length() for length in port.partial_shape]
        assert [int(one) for one in dims.split(", ")] == lengths
    assert not openvino.layout_helpers.has_batch(served.get_parameters()[0].get_layout())


def test_a_new_version_and_another_model_leave_what_is_there(exported: Path, tmp_path: Path) -> None:
    mine = {"config": {"name": "mine", "base_path": "/elsewhere"}}
    (tmp_path / "config.json").write_text(json.dumps({"monitoring": {"metrics": {}}, "model_config_list": [mine]}))
    written(exported, tmp_path)
    first = (tmp_path / "tiles" / "1" / "model.xml").read_bytes()
    written(exported, tmp_path)
    written(exported, tmp_path, "bolts")
    assert sorted(path.name for path in (tmp_path / "tiles").iterdir()) == ["1", "2", "config.pbtxt"]
    assert (tmp_path / "tiles" / "1" / "model.xml").read_bytes() == first
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["monitoring"] == {"metrics": {}}
    assert config["model_config_list"][0] == mine
    assert [one["config"]["name"] for one in config["model_config_list"]] == ["mine", "tiles", "bolts"]


def test_other_json_is_refused_and_left(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_config_list": [{"mine": 1}]}')
    with pytest.raises(ValueError, match=r"config.json' is not a configuration of OpenVINO Model Server"):
        written(exported, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_served_model_that_differs_is_not_written(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearest = openvino.preprocess.ResizeAlgorithm.RESIZE_NEAREST
    monkeypatch.setattr(model_repository, "ResizeAlgorithm", type("", (), {"RESIZE_BILINEAR_PILLOW": nearest}))
    with pytest.raises(ValueError, match=r"The model for servers differs from .* by "):
        written(exported, tmp_path / "models")
    assert not (tmp_path / "models").exists()
