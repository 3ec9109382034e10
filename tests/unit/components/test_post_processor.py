"""Thresholds and normalisation suit validation with normal images only, and are anomalib's otherwise."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino
import pytest
import torch
from anomalib.data import ImageBatch, InferenceBatch
from anomalib.post_processing import PostProcessor
from torchmetrics.utilities.data import dim_zero_cat

from anomalib_stfpm import Stfpm
from anomalib_stfpm.components.post_processor import NormalPostProcessor, RawThresholds
from anomalib_stfpm_deploy.thresholds import threshold_of

BUFFERS = ("_image_threshold", "_pixel_threshold", "image_min", "image_max", "pixel_min", "pixel_max")


def batches(*labels: list[int], masks: bool = True, seed: int = 0) -> list[ImageBatch]:
    """Predicted batches; the maps are products of three random maps, as those of STFPM are, with a long tail."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for label in labels:
        maps = torch.rand(3, len(label), 1, 32, 32, generator=generator).prod(0) + 0.001
        gt_label = torch.tensor(label)
        gt_mask = torch.zeros(len(label), 32, 32, dtype=torch.bool)
        gt_mask[gt_label == 1, 4:9, 4:9] = True
        maps[:, 0][gt_mask] += 0.5
        image = torch.zeros(len(label), 3, 32, 32)
        score = maps.amax(dim=(-2, -1))
        batch = ImageBatch(image=image, gt_label=gt_label, gt_mask=gt_mask if masks else None)
        made.append(batch.update(anomaly_map=maps, pred_score=score))
    return made


def validate(
    post_processor: PostProcessor, given: list[ImageBatch], *, others_have_defects: bool = False
) -> dict[str, float]:
    def agree(decision: bool, *, all: bool) -> bool:  # noqa: A002  Lightning's name
        assert all
        return decision and not others_have_defects

    strategy = SimpleNamespace(reduce_boolean_decision=agree)
    trainer: Any = SimpleNamespace(strategy=strategy, val_dataloaders=None, world_size=1)
    for index, batch in enumerate(given):
        post_processor.on_validation_batch_end(trainer, trainer, batch, batch, index)
    post_processor.on_validation_epoch_end(trainer, trainer)
    return {name: float(getattr(post_processor, name)) for name in BUFFERS}


@pytest.mark.parametrize("rate", [0.01, 0.3])
@pytest.mark.parametrize("masks", [True, False])
def test_with_normal_images_only_thresholds_are_those_of_the_false_alarm_rate(rate: float, masks: bool) -> None:
    given = batches([0, 0, 0], [0, 0], masks=masks)
    pixels = dim_zero_cat([batch.anomaly_map.flatten() for batch in given])
    scores = dim_zero_cat([batch.pred_score.flatten() for batch in given])
    values = validate(NormalPostProcessor(rate), given)
    assert values["_image_threshold"] == pytest.approx(1.0001 * threshold_of(scores, rate))
    assert float((pixels > values["_pixel_threshold"]).float().mean()) == pytest.approx(rate, abs=1e-3)


def test_the_model_gives_the_default_post_processor_its_false_alarm_rate() -> None:
    model = Stfpm(false_alarm_rate=0.2)
    assert model.hparams["false_alarm_rate"] == model.post_processor.false_alarm_rate == 0.2


def test_the_lowest_normal_value_becomes_0_and_the_threshold_one_half() -> None:
    post_processor = NormalPostProcessor()
    values = validate(post_processor, batches([0, 0, 0]))
    lowest, threshold = values["pixel_min"], values["_pixel_threshold"]
    maps = torch.tensor([lowest, (lowest + threshold) / 2, threshold, 2 * threshold - lowest, 9.0]).reshape(1, 1, 5)
    (batch,) = batches([0])
    batch.update(anomaly_map=maps)
    post_processor.normalize_batch(batch)
    assert batch.anomaly_map.flatten().tolist() == pytest.approx([0, 0.25, 0.5, 1, 1], abs=1e-6)


def test_an_export_with_one_value_in_validation_still_separates_higher_from_lower_scores(tmp_path: Path) -> None:
    post_processor = NormalPostProcessor()
    for value in (post_processor.image_min, post_processor.image_max, post_processor._image_threshold):
        value.fill_(2.0)
    for value in (post_processor.pixel_min, post_processor.pixel_max, post_processor._pixel_threshold):
        value.fill_(0.0)

    class Scores(torch.nn.Module):
        def __init__(self, post_processor: NormalPostProcessor) -> None:
            super().__init__()
            self.post_processor = post_processor

        def forward(self, scores: torch.Tensor) -> torch.Tensor:
            batch = InferenceBatch(pred_score=scores, anomaly_map=scores.reshape(-1, 1, 1, 1))
            return torch.stack(
                [self.post_processor(batch).pred_score, self.post_processor(batch).anomaly_map.flatten()]
            )

    scores = torch.tensor([1.99, 2.0, 2.01, 1e6])
    torch.onnx.export(Scores(post_processor).eval(), (scores,), tmp_path / "scores.onnx", dynamo=True, verbose=False)
    compiled = openvino.compile_model(tmp_path / "scores.onnx", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    (given,) = compiled([scores.numpy()]).values()
    assert given[0].tolist() == pytest.approx([0, 0.5, 1, 1], abs=0.1)
    assert given[1].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("labels", [([0, 0], [0, 1]), ([1, 0], [0, 0]), ([1, 1],)])
def test_with_defects_in_validation_it_equals_anomalibs_but_the_threshold_is_no_images_score(
    labels: tuple[list[int], ...],
) -> None:
    given, anomalibs = validate(NormalPostProcessor(), batches(*labels)), validate(PostProcessor(), batches(*labels))
    scores = sorted(float(score) for batch in batches(*labels) for score in batch.pred_score)
    place = scores.index(anomalibs.pop("_image_threshold"))
    expected = (scores[place] + scores[place - 1]) / 2 if place else scores[0]
    assert given.pop("_image_threshold") == pytest.approx(expected)
    assert given == anomalibs


def test_with_defects_in_another_process_it_equals_anomalibs() -> None:
    given = batches([0, 0], [0, 0])
    values = validate(NormalPostProcessor(), given, others_have_defects=True)
    anomalibs = validate(PostProcessor(), given)
    assert values.pop("_image_threshold") < anomalibs.pop("_image_threshold")
    assert values == anomalibs


def test_validations_do_not_affect_each_other() -> None:
    post_processor = NormalPostProcessor()
    validate(post_processor, batches([0, 1]))
    validate(post_processor, batches([0, 0], seed=1))
    assert validate(post_processor, batches([0, 0])) == validate(NormalPostProcessor(), batches([0, 0]))


def test_disabled_thresholds_and_normalisation_stay_unset() -> None:
    values = validate(NormalPostProcessor(enable_normalization=False, enable_thresholding=False), batches([0, 0]))
    assert all(value != value for value in values.values())


@pytest.mark.parametrize("given", [NormalPostProcessor, PostProcessor])
def test_raw_predictions_are_compared_with_raw_thresholds(given: type[PostProcessor], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Stfpm(post_processor=given(enable_normalization=False), input_size=(64, 64)).eval()
    model.model.teacher_is_loaded.fill_(True)
    images = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    images[:2] *= 0.2
    processor: Any = model.post_processor
    with torch.no_grad():
        raw = model.model(model.pre_processor(images))
        between = raw.pred_score.flatten().sort().values[1:3].mean()
        processor._image_threshold.copy_(between)
        processor._pixel_threshold.copy_(raw.anomaly_map.median())
        found = model(images)
    labels = (raw.pred_score > between).flatten()
    assert labels.tolist().count(True) == 2
    assert found.pred_label.flatten().tolist() == labels.tolist()
    assert (found.pred_mask == (raw.anomaly_map > raw.anomaly_map.median())).float().mean() > 0.999
    batch = ImageBatch(image=images).update(**raw._asdict())
    processor.post_process_batch(batch)
    assert batch.pred_label.flatten().tolist() == labels.tolist()
    compiled = openvino.compile_model(model.to_openvino(tmp_path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    exported = compiled([images.numpy()])
    assert exported["pred_label"].flatten().tolist() == labels.tolist()
    assert (exported["pred_mask"].squeeze() == found.pred_mask.squeeze().numpy()).mean() > 0.999


def test_a_sensitivity_needs_normalised_predictions() -> None:
    with pytest.raises(ValueError, match="image_sensitivity and pixel_sensitivity need normalised predictions"):
        Stfpm(post_processor=PostProcessor(enable_normalization=False, image_sensitivity=0.3))
    assert type(Stfpm(post_processor=PostProcessor(enable_normalization=False)).post_processor) is RawThresholds


def test_it_is_the_default_and_can_be_replaced() -> None:
    assert type(Stfpm().post_processor) is NormalPostProcessor
    users = PostProcessor()
    assert Stfpm(post_processor=users).post_processor is users
