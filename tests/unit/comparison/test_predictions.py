"""What a model says of the test images is kept and measured alike for every model."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from anomalib_stfpm.comparison import predictions
from anomalib_stfpm.comparison.predictions import FALSE_ALARMS, HITS, METRICS, MISSES, Prediction

LOGGED = dict(zip(METRICS, (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), strict=True))


def predicted(number: int = 12, *, masks: bool = True) -> list[Prediction]:
    """Predictions of good images and of defective ones, whose scores and maps are higher, but not all."""
    generator = np.random.default_rng(0)
    made = []
    for index in range(number):
        is_defective = index % 2 == 1
        mask = np.zeros((16, 16), bool)
        mask[4:8, 4:8] = is_defective
        anomaly_map = (generator.random((16, 16)) + mask).astype(np.float32)
        score = float(generator.random()) + 0.5 * is_defective
        made.append(Prediction(f"{index}.png", is_defective, score, score > 1, anomaly_map, mask if masks else None))
    return made


def written(folder: Path) -> list[Prediction]:
    """The predictions with their images, each of a grey that tells its number; those of defects have 16 bits."""
    given = [replace(one, path=str(folder / one.path)) for one in predicted()]
    for index, one in enumerate(given):
        kind, white = (np.uint16, 257) if one.is_defective else (np.uint8, 1)
        cv2.imwrite(one.path, np.full((32, 24), 10 * index * white, kind))
    return given


def only(is_defective: bool) -> list[Prediction]:
    return [one for one in predicted() if one.is_defective is is_defective]


def test_all_is_measured_where_labels_and_masks_allow_it() -> None:
    assert predictions.measured(LOGGED, predicted()) == LOGGED
    assert predictions.notes(predicted()) == []


@pytest.mark.parametrize(
    ("given", "missing", "sentence"),
    [
        (predicted(masks=False), {"pixel_AUROC", "AUPRO", "PointingGame", "CoveredAUROC"}, "There are no masks"),
        (only(is_defective=False), set(METRICS), "There is no defective test image"),
        (
            only(is_defective=True),
            {"image_AUROC", "CoveredAUROC"},
            "There is no good test image: image AUROC was not measured.",
        ),
    ],
)
def test_what_images_do_not_allow_is_left_out_and_said(
    given: list[Prediction], missing: set[str], sentence: str
) -> None:
    measured = predictions.measured(LOGGED, given)
    assert {name for name, value in measured.items() if value is None} == missing
    assert [note for note in predictions.notes(given) if note.startswith(sentence)]
    assert ("ROC" in predictions.curves(given)) is ("image_AUROC" not in missing)
    assert ("PRO" in predictions.curves(given)) is ("AUPRO" not in missing)


def test_the_area_under_the_curve_is_the_metric() -> None:
    given = predicted(200)
    x, y = predictions.curves(given)["ROC"]
    area = roc_auc_score([one.is_defective for one in given], [one.score for one in given])
    assert np.trapezoid(y, x) == pytest.approx(area, abs=2e-3)
    assert len(x) <= 202


def test_the_curve_of_regions_rises_up_to_the_limit() -> None:
    x, y = predictions.curves(predicted())["PRO"]
    assert x[0] >= 0
    assert max(x) <= 0.3
    assert max(y) <= 1
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()


def test_the_images_shown_are_the_surest_and_the_worst(tmp_path: Path) -> None:
    given = written(tmp_path)
    shown = predictions.write_images(given, tmp_path / "shown")
    by_score = sorted(given, key=lambda one: one.score)
    defective, good = ([one.path for one in by_score if one.is_defective is kind] for kind in (True, False))
    assert [one["path"] for one in shown[HITS]] == defective[::-1][:4]
    assert [one["path"] for one in shown[MISSES]] == defective[:4]
    assert [one["path"] for one in shown[FALSE_ALARMS]] == good[::-1][:4]
    for one in shown[HITS]:
        image = cv2.imread(str(tmp_path / "shown" / one["picture"]))
        overlay = cv2.imread(str(tmp_path / "shown" / one["overlay"]))
        assert image is not None
        assert overlay is not None
        assert abs(int(image.mean()) - 10 * int(Path(one["path"]).stem)) <= 2
        red, blue = overlay[5, 5, 2], overlay[5, 5, 0]
        assert red > blue  # the defect


def test_a_model_without_maps_shows_images_only(tmp_path: Path) -> None:
    given = [replace(one, anomaly_map=None) for one in written(tmp_path)]
    shown = predictions.write_images(given, tmp_path / "shown")
    assert {key for group in shown.values() for one in group for key in one} == {
        "path", "score", "is_anomalous", "picture",
    }  # fmt: skip
    assert "PRO" not in predictions.curves(given)
