"""Properties of loss, maps, levels, metrics and written files for any input."""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NoReturn
from unittest.mock import patch

import numpy as np
import pytest
import torch
from anomalib.data import ImageBatch
from anomalib.metrics import AUPRO, AUROC
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from anomalib_stfpm import AnomalyMap, FeaturePyramid, PublishedPRO, RawEvaluator, StfpmLoss, available_levels
from anomalib_stfpm.backbone.feature_pyramid import resolve_layers
from anomalib_stfpm.comparison import report
from anomalib_stfpm.comparison.record import CategoryResults, RunResult, record
from anomalib_stfpm.reproduction import report as reproduction_report
from anomalib_stfpm.results import finite_json
from anomalib_stfpm_deploy.results import CSV_FILE, JSON_FILE, Result, Results, harmless

from .comparison.records import measured, timing

few = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

Levels = list[torch.Tensor]
LARGEST = 4.0  # distance of two unit vectors, squared


@st.composite
def pyramids(draw: st.DrawFn) -> tuple[Levels, Levels]:
    """A teacher's and a student's features, of any number of images, levels, channels and positions, at any scale."""
    number = draw(st.integers(1, 4))
    shapes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3))
    scale = 10.0 ** draw(st.integers(-4, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    teacher, student = ([torch.randn(number, *shape, generator=generator) * scale for shape in shapes] for _ in "ts")
    return teacher, student


def cosines(teacher: Levels, student: Levels) -> list[np.ndarray[Any, Any]]:
    """Cosine of the angle between both at every position of every level, in 64 bits."""
    found = []
    for pair in zip(teacher, student, strict=True):
        left, right = (features.double().numpy() for features in pair)
        lengths = [np.sqrt((features**2).sum(axis=1)).clip(1e-12) for features in (left, right)]
        found.append((left * right).sum(axis=1) / lengths[0] / lengths[1])
    return found


@few
@given(pyramids())
def test_the_loss_is_one_less_the_cosine(both: tuple[Levels, Levels]) -> None:
    expected = sum(float((1 - cosine).mean()) for cosine in cosines(*both))
    loss = StfpmLoss()(*both).item()
    assert loss == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert 0 <= loss <= LARGEST / 2 * len(both[0]) + 1e-5


@few
@given(pyramids(), st.floats(1e-3, 1e3))
def test_the_loss_of_features_that_point_the_same_way_is_zero(both: tuple[Levels, Levels], scale: float) -> None:
    teacher, _ = both
    assert StfpmLoss()(teacher, [features * scale for features in teacher]).item() == pytest.approx(0, abs=1e-5)


@few
@given(pyramids(), st.randoms(use_true_random=False))
def test_the_loss_does_not_depend_on_the_order_of_the_images(both: tuple[Levels, Levels], random: Any) -> None:  # noqa: ANN401
    order = list(range(len(both[0][0])))
    random.shuffle(order)
    shuffled = ([features[order] for features in pyramid] for pyramid in both)
    assert StfpmLoss()(*shuffled).item() == pytest.approx(StfpmLoss()(*both).item(), rel=1e-5, abs=1e-6)


@few
@given(pyramids(), st.lists(st.floats(0, 100), min_size=3, max_size=3).filter(any))
def test_the_loss_is_linear_in_its_weights(both: tuple[Levels, Levels], weights: list[float]) -> None:
    weights = weights[: len(both[0])]
    if not any(weights):
        weights[0] = 1.0
    single = [StfpmLoss()([teacher], [student]).item() for teacher, student in zip(*both, strict=True)]
    expected = sum(weight * loss for weight, loss in zip(weights, single, strict=True))
    assert StfpmLoss(weights)(*both).item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@few
@given(pyramids())
def test_the_gradient_flows_to_the_student_and_is_finite(both: tuple[Levels, Levels]) -> None:
    teacher, student = ([features.requires_grad_() for features in pyramid] for pyramid in both)
    StfpmLoss()(teacher, student).backward()
    assert all(features.grad is None for features in teacher)
    assert all(features.grad is not None and features.grad.isfinite().all() for features in student)


@few
@given(pyramids(), st.tuples(st.integers(4, 40), st.integers(4, 40)))
def test_maps_are_finite_and_between_zero_and_what_all_levels_allow(
    both: tuple[Levels, Levels], size: tuple[int, int]
) -> None:
    maps = AnomalyMap()(*both, size)
    assert maps.shape == (len(both[0][0]), 1, *size)
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert maps.max() <= LARGEST ** len(both[0]) * (1 + 1e-5)


@few
@given(pyramids(), st.tuples(st.integers(4, 40), st.integers(4, 40)))
def test_the_map_of_an_image_does_not_depend_on_its_batch(both: tuple[Levels, Levels], size: tuple[int, int]) -> None:
    together = AnomalyMap()(*both, size)
    for index, expected in enumerate(together):
        alone = AnomalyMap()(*([features[index : index + 1] for features in pyramid] for pyramid in both), size)
        torch.testing.assert_close(alone[0], expected, rtol=1e-5, atol=1e-6)


BACKBONE = "resnet18"
NAMES = list(available_levels(BACKBONE))


@few
@given(st.lists(st.sampled_from(range(len(NAMES))), min_size=1, unique=True), st.data())
def test_levels_come_out_shallowest_first_however_they_are_named(indices: list[int], data: st.DataObject) -> None:
    layers = [data.draw(st.sampled_from([index, NAMES[index]])) for index in indices]
    assert resolve_layers(BACKBONE, layers) == [NAMES[index] for index in sorted(indices)]


@settings(few, max_examples=10)
@given(
    st.lists(st.sampled_from(NAMES), min_size=1, unique=True),
    st.tuples(st.integers(1, 2), st.integers(32, 70), st.integers(32, 70)),
)
def test_features_have_the_size_of_their_stride(layers: list[str], size: tuple[int, int, int]) -> None:
    number, height, width = size
    pyramid = FeaturePyramid(BACKBONE, layers).eval()
    with torch.no_grad():
        features = pyramid(torch.rand(number, 3, height, width))
    strides = [available_levels(BACKBONE)[layer] for layer in pyramid.layers]
    expected = [(number, math.ceil(height / stride), math.ceil(width / stride)) for stride in strides]
    assert [(len(level), *level.shape[-2:]) for level in features] == expected


@st.composite
def maps_and_masks(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps whose values are hundredths, and masks that hold some of their pixels."""
    number, height, width = draw(st.integers(1, 3)), draw(st.integers(2, 9)), draw(st.integers(2, 9))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32 - 1)))
    maps = torch.randint(1, 100, (number, height, width), generator=generator) / 100
    masks = torch.rand(number, height, width, generator=generator) < draw(st.floats(0.05, 0.95))
    masks[0, 0, 0], masks[0, 0, 1] = True, False
    maps[0, 0, 0], maps[0, 1, 1] = 1.0, 0.0
    return maps, masks


def pro(maps: torch.Tensor, masks: torch.Tensor) -> float:
    metric: Any = PublishedPRO(thresholds=50)
    metric.update(ImageBatch(image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=maps, gt_mask=masks))
    return float(metric.compute())


@few
@given(maps_and_masks(), st.integers(-10, 10))
def test_published_pro_is_a_share_that_neither_scale_nor_order_of_the_images_changes(
    both: tuple[torch.Tensor, torch.Tensor], power: int
) -> None:
    maps, masks = both
    value = pro(maps, masks)
    assert 0 <= value <= 1 + 1e-6
    assert pro(maps * 2.0**power, masks) == pytest.approx(value, abs=1e-6)
    assert pro(maps.flip(0), masks.flip(0)) == pytest.approx(value, abs=1e-6)


@few
@given(maps_and_masks())
def test_published_pro_of_the_masks_themselves_is_one(both: tuple[torch.Tensor, torch.Tensor]) -> None:
    _, masks = both
    assert pro(masks.float(), masks) == pytest.approx(1)


INCREASING: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "scaled": lambda values: values * 1e-3,
    "enlarged": lambda values: values * 1e4,
    "negative": lambda values: values - 2,
    "cubed": lambda values: values**3,
    "exponential": lambda values: values.exp(),
    "logarithm": lambda values: (values + 0.1).log(),
}


@few
@given(maps_and_masks(), st.sampled_from(sorted(INCREASING)))
def test_metrics_of_the_evaluator_look_at_the_order_only(
    both: tuple[torch.Tensor, torch.Tensor], transform: str
) -> None:
    maps, masks = both
    fields = ["anomaly_map", "gt_mask"]

    def evaluated(maps: torch.Tensor) -> list[float]:
        evaluator = RawEvaluator([AUROC(fields=fields, prefix="pixel_"), AUPRO(fields=fields)])
        batch = ImageBatch(image=torch.zeros(len(maps), 3, 1, 1), anomaly_map=maps, gt_mask=masks)
        alone: Any = SimpleNamespace(world_size=1, test_dataloaders=None)
        nothing: Any = None
        evaluator.on_test_batch_end(alone, nothing, nothing, batch, 0)
        metrics: Any = evaluator.test_metrics
        return [float(metric.compute()) for metric in metrics]

    before = evaluated(maps)
    assert before[0] == pytest.approx(roc_auc_score(masks.flatten(), maps.flatten()), abs=1e-4)
    assert evaluated(INCREASING[transform](maps)) == pytest.approx(before, abs=1e-4)


# Names of files and models: any text but for what no file's name holds, and half characters, which UTF-8 has none of.
TROUBLESOME = [
    '"',
    "a,b",
    "a\nb",
    "a\rb",
    "a\r\nb",
    "=1+1",
    "@x",
    "-1",
    "'",
    '""',
    " ",
    "\ufeff",
    "|",
    "<b>",
    "傷",
    ";",
    "NaN",
]
characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
names = st.text(characters, min_size=1, max_size=20) | st.sampled_from(TROUBLESOME)
any_float = st.sampled_from([math.nan, math.inf, -math.inf]) | st.floats()
numbers = any_float | st.none()


def refuse(constant: str) -> NoReturn:
    msg = f"{constant} is no JSON"
    raise ValueError(msg)


def strictly(text: str) -> Any:  # noqa: ANN401
    """Read JSON as readers do that know no NaN."""
    return json.loads(text, parse_constant=refuse)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | any_float | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3) | st.tuples(inner, inner),
    max_leaves=8,
)


def finite(value: Any) -> Any:  # noqa: ANN401
    """What a reader is to find."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


@settings(few, max_examples=100)
@given(values)
def test_finite_json_is_read_back_by_every_reader(value: Any) -> None:  # noqa: ANN401
    assert strictly(finite_json.dumps(value)) == finite(value)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@few
@given(
    st.lists(
        st.tuples(
            names, st.floats(allow_nan=False, allow_infinity=False) | st.none(), st.booleans() | st.none(), names
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda one: one[0],
    )
)
def test_results_of_images_are_read_back_whatever_their_names(rows: list[tuple[str, Any, Any, str]]) -> None:
    results = [
        Result(name, "1 2", score, label, unreadable=reason if score is None else None)
        for name, score, label, reason in rows
    ]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        made = Results(folder, {"model": "a"})
        for result in results:
            made.add(result)
        again = Results(folder, {"model": "a"})  # as if it had been interrupted here
        assert again.finish([result.picture for result in results]) == results
        read = strictly((folder / JSON_FILE).read_text(encoding="utf-8"))["results"]
        assert [Result(**{**one, "regions": tuple(one["regions"])}) for one in read] == results
        for row, result in zip(read_csv(folder / CSV_FILE), results, strict=True):
            assert row["picture"] == harmless(result.picture)
            assert row["unreadable"] == ("" if result.unreadable is None else harmless(result.unreadable))
            assert (float(row["score"]) if row["score"] else None) == result.score


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]


@pytest.fixture(scope="module")
def run_result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return measured(tmp_path_factory.mktemp("run"))


@few
@given(st.lists(names, min_size=1, max_size=3, unique=True), names, st.lists(numbers, min_size=4, max_size=4), numbers)
def test_a_comparison_is_read_back_whatever_its_names_and_figures(
    run_result: dict[str, Any], models: list[str], category: str, figures: list[float | None], seconds: float | None
) -> None:
    metrics = dict(zip(run_result["metrics"], figures, strict=True))
    one = {**run_result, "metrics": metrics, "fit_seconds": seconds}
    runs = [RunResult(model, seed, Path("folder"), one, None) for model in models for seed in (0, 1)]
    timings = [each for model in models for each in timing(model, 10)]
    made = record({"seeds": [0]}, [CategoryResults(category, runs, {"timings": timings})])
    with TemporaryDirectory() as temporary, patch("anomalib_stfpm.comparison.report.page", return_value=""):
        folder = Path(temporary)
        report.write(folder, made)
        table = strictly((folder / report.JSON_FILE).read_text(encoding="utf-8"))["table"]
        rows = read_csv(folder / report.CSV_FILE)
        markdown = (folder / report.MARKDOWN_FILE).read_text(encoding="utf-8")
    assert [row["model"] for row in table] == models
    assert [row["image_AUROC"] for row in table] == [finite(metrics["image_AUROC"])] * len(models)
    assert [(row["category"], row["model"]) for row in rows] == [(harmless(category), harmless(one)) for one in models]
    assert [row["fit_seconds"] for row in rows] == ["" if seconds is None else str(seconds)] * len(models)
    lines = [line for line in markdown.split("\n") if line.startswith("| ")]
    assert len(lines) == 2 + len(models)
    assert {len(cells_of(line)) for line in lines} == {len(cells_of(lines[0]))}
    assert [cells_of(line)[0] for line in lines[2:]] == [" ".join(one.split()).replace("|", "&#124;") for one in models]


@few
@given(st.lists(names, min_size=1, max_size=3, unique=True), numbers, st.dictionaries(names, names, max_size=2))
def test_a_reproduction_is_read_back_whatever_its_names_and_figures(
    categories: list[str], figure: float | None, missing: dict[str, str]
) -> None:
    metrics = {"pixel_AUROC": figure, "image_AUROC": 0.5}
    results = [{"category": category, "seed": seed, "metrics": metrics} for category in categories for seed in (0, 1)]
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        reproduction_report.write(folder, results, missing)
        read = strictly((folder / reproduction_report.RESULTS_FILE).read_text(encoding="utf-8"))
        rows = read_csv(folder / "results.csv")
    assert [row["category"] for row in read["table"]] == [*sorted(categories), "average"]
    assert read["missing"] == missing
    assert [row["category"] for row in rows] == [harmless(row["category"]) for row in read["table"]]
    assert [float(row["image_AUROC"]) for row in rows] == [0.5] * len(rows)
