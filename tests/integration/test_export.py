"""Every export loads and predicts what the model predicts, on images of any size and mode."""

import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime
import openvino
import pytest
import torch
from anomalib.data import PredictDataset
from anomalib.data.utils import read_image
from anomalib.deploy import CompressionType, ExportType, OpenVINOInferencer, TorchInferencer
from anomalib.pre_processing import PreProcessor
from model_api.adapters import OpenvinoAdapter, create_core
from model_api.models import AnomalyDetection
from PIL import Image
from torchvision.transforms.v2 import Compose, Normalize, Resize

from anomalib_stfpm.data import MVTecLayout
from anomalib_stfpm.openvino.export import ANY_SIZE
from anomalib_stfpm_deploy.image import read_image as read_deployed
from anomalib_stfpm_deploy.network import Network
from tests.conftest import CategoryWriter

from .conftest import quiet_engine, trained_for_a_step, validate

pytestmark = pytest.mark.integration

IN_32_BITS = {"INFERENCE_PRECISION_HINT": "f32"}


def predicted(path: Path, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    outputs = openvino.compile_model(path, "CPU", IN_32_BITS)(images)
    return {output.any_name: value for output, value in outputs.items()}


def assert_agree(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    score, expected_score = (np.asarray(one["pred_score"]).ravel() for one in (actual, expected))
    np.testing.assert_allclose(score, expected_score, rtol=0, atol=1e-4 * max(1.0, np.abs(expected_score).max()))
    maps, expected_maps = (np.asarray(one["anomaly_map"]).squeeze() for one in (actual, expected))
    np.testing.assert_allclose(maps, expected_maps, rtol=0, atol=1e-3 * max(1.0, np.abs(expected_maps).max()))


@pytest.mark.parametrize(
    ("backbone", "others"),
    [
        ("resnet18", {"map_contrast": 0.5, "map_size": (40, 12)}),
        ("tf_efficientnet_lite0", {"map_smoothing": 1.0}),
        *(
            pytest.param(name, {}, marks=pytest.mark.slow)
            for name in ("resnet50", "mobilenetv3_large_100", "convnext_tiny")
        ),
    ],
)
def test_openvino_agrees_with_torch(backbone: str, others: dict[str, Any], tmp_path: Path) -> None:
    """Before scores are normalised: those of some random networks hardly differ from image to image."""
    model = trained_for_a_step(backbone, post_processor=False, **others)
    images = torch.rand(2, 3, 80, 100)
    with torch.no_grad():
        expected = model(images)
    outputs = predicted(model.to_openvino(tmp_path, input_size=(80, 100)), images.numpy())
    assert outputs.keys() == {"pred_score", "anomaly_map"}
    assert_agree(outputs, expected._asdict())


@pytest.mark.slow
def test_the_exported_input_has_the_pre_processors_size_and_a_dynamic_batch(tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18", (64, 96))
    for path in (model.to_onnx(tmp_path), model.to_openvino(tmp_path)):
        shape = openvino.Core().read_model(path).input(0).partial_shape
        assert shape[0].is_dynamic
        assert [length.get_length() for length in list(shape)[1:]] == [3, 64, 96]


@pytest.mark.slow
def test_without_a_pre_processor_the_exported_size_is_dynamic(tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18", pre_processor=False)
    images = torch.rand(1, 3, 96, 64)
    with torch.no_grad():
        expected = model(images)
    assert_agree(predicted(model.to_openvino(tmp_path), images.numpy()), expected._asdict())


def test_a_custom_pre_processor_is_exported(tmp_path: Path) -> None:
    transform = Compose([Resize((72, 80)), Normalize([0.5, 0.5, 0.5], [0.2, 0.2, 0.2])])
    model = trained_for_a_step("resnet18", pre_processor=PreProcessor(transform))
    image = torch.rand(1, 3, 200, 150)
    with torch.no_grad():
        expected = model.post_processor(model.model(transform(image)))
    assert_agree(predicted(model.to_openvino(tmp_path, input_size=ANY_SIZE), image.numpy()), expected._asdict())


def test_impossible_size_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="input_size must be a height and a width in pixels, or -1 and -1 for"):
        trained_for_a_step("resnet18").to_onnx(tmp_path, input_size=(0, 64))


def test_onnx_export_is_quiet_and_has_opset_18(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    import onnx

    path = trained_for_a_step("resnet18").to_onnx(tmp_path)
    assert onnx.load(path).opset_import[0].version == 18
    assert "".join(capfd.readouterr()) == ""
    assert [str(warning.message) for warning in recwarn if "anomalib_stfpm" in warning.filename] == []


def test_a_model_that_was_never_validated_is_refused(tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    model.post_processor.image_min.fill_(torch.nan)
    for export in (model.to_torch, model.to_onnx, model.to_openvino):
        with pytest.raises(ValueError, match="Cannot export a model without thresholds: this one was never validated"):
            export(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_threshold", [0.6, pytest.param(0.1, marks=pytest.mark.slow)])
def test_normalisation_without_a_range_is_exported_too(image_threshold: float, tmp_path: Path) -> None:
    """As of a validation with one image: all above the threshold is 1, all below 0."""
    model = trained_for_a_step("resnet18")
    for name in ("image_min", "image_max", "_image_threshold"):
        getattr(model.post_processor, name).fill_(image_threshold)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = model(images)
    assert set(expected.pred_score.flatten().tolist()) <= {0.0, 1.0}
    assert_agree(predicted(model.to_openvino(tmp_path), images.numpy()), expected._asdict())


# -- one truth ---------------------------------------------------------------------------------------------------------


def written_images(folder: Path) -> list[Path]:
    """An image of every mode and of several sizes."""
    generator = np.random.default_rng(0)
    small = Image.fromarray(generator.integers(0, 256, (12, 16, 3), dtype=np.uint8))
    colours = small.resize((150, 110), Image.Resampling.BICUBIC)
    with_alpha = colours.convert("RGBA")
    with_alpha.putalpha(colours.convert("L"))
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 3)
    images: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "colours.png": (colours, {}),
        "grey.png": (colours.convert("L"), {}),
        "alpha.png": (with_alpha, {}),
        "palette.png": (colours.quantize(32), {}),
        "deep.png": (deep, {}),
        "turned.jpg": (colours, {"exif": turned}),
        "large.jpg": (small.resize((400, 300), Image.Resampling.BICUBIC), {}),
        "tiny.bmp": (small, {}),
    }
    for name, (image, options) in images.items():
        image.save(folder / name, **options)
    return [folder / name for name in images]


def test_all_runtimes_agree_on_images_of_any_size_and_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")
    monkeypatch.chdir(tmp_path)  # OpenVINOInferencer leaves a cache where it runs
    model = trained_for_a_step("resnet18", visualizer=False)
    paths = written_images(tmp_path)
    with torch.no_grad():
        validate(model, [read_image(path, as_tensor=True).unsqueeze(0) for path in paths])
    engine = quiet_engine(tmp_path / "predict")
    any_size = model.to_openvino(tmp_path / "any", input_size=ANY_SIZE)
    torch_inferencer = TorchInferencer(model.to_torch(tmp_path / "any"), device="cpu")
    openvino_inferencer = OpenVINOInferencer(any_size, device="CPU", config=IN_32_BITS)
    onnx = onnxruntime.InferenceSession(model.to_onnx(tmp_path / "any", input_size=ANY_SIZE))
    fixed, open_size = Network(model.to_openvino(tmp_path / "fixed")), Network(any_size)
    for path in paths:
        predictions: Any = engine.predict(model, dataset=PredictDataset(path))
        (expected,) = predictions
        truth = {"pred_score": expected.pred_score, "anomaly_map": expected.anomaly_map}
        assert_agree(vars_of(torch_inferencer.predict(path)), truth)
        assert_agree(vars_of(openvino_inferencer.predict(path)), truth)
        image = read_image(path, as_tensor=True).unsqueeze(0).numpy()
        names = [output.name for output in onnx.get_outputs()]
        assert_agree(dict(zip(names, onnx.run(None, {"input": image}), strict=True)), truth)
        for network in (fixed, open_size):
            prediction = network.predict(network.prepare(read_deployed(path)))
            assert_agree({"pred_score": prediction.score, "anomaly_map": prediction.anomaly_map}, truth)
            assert prediction.is_anomalous == bool(expected.pred_label)


@pytest.mark.slow
def test_intels_model_api_reads_the_model_and_agrees(tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(pixels).resize((150, 120), Image.Resampling.BICUBIC))
    for image, input_size in ((pixels, None), (large, ANY_SIZE)):
        images = torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0).float() / 255
        with torch.no_grad():
            validate(model, [images, torch.rand(1, 3, 64, 64)])
            expected = model(images)
        path = model.to_openvino(tmp_path, input_size=input_size)
        adapter = OpenvinoAdapter(create_core(), str(path), device="CPU", plugin_config=IN_32_BITS)
        found = AnomalyDetection.create_model(adapter)(image)
        assert found.pred_score == pytest.approx(expected.pred_score.item(), abs=1e-4)
        assert found.pred_label == str(bool(expected.pred_label))
        shown = cv2.resize(expected.anomaly_map[0, 0].numpy(), image.shape[1::-1])
        assert np.abs(found.anomaly_map - 255 * shown).max() < 2  # it rounds twice


@pytest.mark.slow
def test_a_model_of_one_size_warns_in_its_metadata_that_images_are_resized_with_antialiasing(tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    exported = openvino.Core().read_model(model.to_openvino(tmp_path / "fixed"))
    assert "with antialiasing" in exported.get_rt_info(["anomalib_stfpm", "resize"]).astype(str)
    any_size = openvino.Core().read_model(model.to_openvino(tmp_path / "any", input_size=ANY_SIZE))
    assert not any_size.has_rt_info(["anomalib_stfpm", "resize"])


def test_an_onnx_model_is_one_file(tmp_path: Path) -> None:
    written = trained_for_a_step("resnet18").to_onnx(tmp_path)
    assert list(written.parent.iterdir()) == [written]


# -- compression -------------------------------------------------------------------------------------------------------


@pytest.fixture
def datamodule(write_category: CategoryWriter) -> MVTecLayout:
    """Images of 64 x 64, which is not the input of the model."""
    return MVTecLayout(root=write_category("part"), category="part", num_workers=0)


@pytest.mark.parametrize(
    "compression",
    [
        CompressionType.INT8_PTQ,
        *(pytest.param(one, marks=pytest.mark.slow) for one in (None, *CompressionType) if one != "int8_ptq"),
    ],
)
def test_every_compression_gives_a_model_that_predicts(
    compression: CompressionType | None, datamodule: MVTecLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = trained_for_a_step("resnet18", (96, 128))
    with caplog.at_level(logging.INFO, "anomalib_stfpm"):
        exported = quiet_engine(tmp_path).export(
            model, ExportType.OPENVINO, tmp_path, compression_type=compression, datamodule=datamodule
        )
    assert exported is not None
    outputs = predicted(exported, np.random.default_rng(0).random((2, 3, 96, 128), dtype=np.float32))
    assert {name: value.shape for name, value in outputs.items()} == {
        "pred_score": (2, 1), "pred_label": (2, 1), "anomaly_map": (2, 1, 96, 128), "pred_mask": (2, 1, 96, 128)
    }  # fmt: skip
    operations = openvino.Core().read_model(exported).get_ops()
    computes_in_8_bits = compression in (CompressionType.INT8_PTQ, CompressionType.INT8_ACQ)
    quantizers = [operation for operation in operations if operation.get_type_name() == "FakeQuantize"]
    assert bool(quantizers) == computes_in_8_bits
    for quantizer in quantizers:
        shape = quantizer.get_output_partial_shape(0)
        assert len(shape) == 4, "a distance is in 8 bits"
        assert shape[1] != 1, "a map is in 8 bits"
    report = exported.with_suffix(".agreement.json")
    assert report.is_file() == computes_in_8_bits
    if computes_in_8_bits:
        record = json.loads(report.read_text(encoding="utf-8"))
        assert record["images"] == 4
        assert record["float_metrics"].keys() == {"image_AUROC", "pixel_AUROC", "AUPRO"}
        assert "held-out images" in caplog.text
        assert bool(record["shortcomings"]) == ("disagrees with the floating-point model on" in caplog.text)


@pytest.mark.parametrize(("given", "expected"), [("fp16", "f16"), ("FP16", "f16"), ("int8", "u8")])
def test_a_compression_may_be_given_as_text(given: str, expected: str, tmp_path: Path) -> None:
    exported = quiet_engine(tmp_path).export(
        trained_for_a_step("resnet18"), "openvino", tmp_path, compression_type=given
    )
    operations = openvino.Core().read_model(exported).get_ops()
    weights = {each.get_element_type().to_string() for each in operations if each.get_type_name() == "Constant"}
    assert expected in weights


@pytest.mark.parametrize("given", ["nonsense", 8])
def test_an_unknown_compression_is_rejected(given: Any, tmp_path: Path) -> None:  # noqa: ANN401
    with pytest.raises(ValueError, match="compression_type must be one of fp16, int8, int8_ptq, int8_acq: got "):
        trained_for_a_step("resnet18").to_openvino(tmp_path, compression_type=given)


@pytest.mark.slow
def test_a_new_export_removes_the_old_agreement_report(datamodule: MVTecLayout, tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    quantized = model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ, datamodule=datamodule)
    assert sorted(path.name for path in quantized.parent.iterdir()) == [
        "model.agreement.json",
        "model.bin",
        "model.xml",
    ]
    model.to_openvino(tmp_path)
    assert sorted(path.name for path in quantized.parent.iterdir()) == ["model.bin", "model.xml"]


def test_quantization_without_its_images_is_rejected(datamodule: MVTecLayout, tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    with pytest.raises(ValueError, match="INT8_PTQ calibrates with normal training images: give the datamodule"):
        model.to_openvino(tmp_path, compression_type=CompressionType.INT8_PTQ)
    with pytest.raises(ValueError, match="max_drop must be between 0 and 1: got 2"):
        model.to_openvino(tmp_path, compression_type=CompressionType.INT8_ACQ, datamodule=datamodule, max_drop=2)


@pytest.mark.slow
def test_int8_acq_without_defective_validation_images_is_rejected(datamodule: MVTecLayout, tmp_path: Path) -> None:
    model = trained_for_a_step("resnet18")
    normal_only = MVTecLayout(
        datamodule.root.parent, "part", num_workers=0, val_split_mode="from_train", val_split_ratio=0.5
    )
    with pytest.raises(ValueError, match="INT8_ACQ needs validation images with and without defects"):
        model.to_openvino(tmp_path, compression_type=CompressionType.INT8_ACQ, datamodule=normal_only)


def vars_of(batch: Any) -> dict[str, Any]:  # noqa: ANN401
    return {"pred_score": batch.pred_score, "anomaly_map": batch.anomaly_map}
