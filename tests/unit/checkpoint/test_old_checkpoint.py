"""A checkpoint of an earlier version loads and gives the same scores."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from anomalib_stfpm import Stfpm

OLD = Path(__file__).parents[2] / "data" / "old_checkpoint"


def images() -> torch.Tensor:
    """The images that the old version scored: noise, and a white square in the last."""
    noise = torch.from_numpy(np.random.default_rng(42).random((4, 3, 64, 64), dtype=np.float32)) * 0.5
    noise[3, :, 20:40, 20:40] = 1
    return noise


def test_a_checkpoint_of_an_earlier_version_gives_the_same_scores() -> None:
    expected = json.loads((OLD / "scores.json").read_text(encoding="utf-8"))
    model = Stfpm.load_from_checkpoint(OLD / "model.ckpt", map_location="cpu").eval()
    with torch.no_grad():
        raw = model.model(model.pre_processor(images()))
        normalised = model(images())
    assert raw.pred_score.flatten().tolist() == pytest.approx(expected["pred_score"], rel=1e-5)
    assert normalised.pred_score.flatten().tolist() == pytest.approx(expected["normalised_score"], rel=1e-4)
    assert raw.anomaly_map.mean((1, 2, 3)).tolist() == pytest.approx(expected["anomaly_map_mean"], rel=1e-5)
