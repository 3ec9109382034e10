"""An output folder holds results of one configuration only."""

from pathlib import Path

import pytest

from anomalib_stfpm.results.output_folder import remember_configuration


def test_the_same_configuration_is_accepted(tmp_path: Path) -> None:
    for _ in range(2):
        remember_configuration(tmp_path / "new", {"epochs": 1, "model": {"size": [2, 3]}})


def test_another_configuration_is_refused_and_the_difference_is_named(tmp_path: Path) -> None:
    remember_configuration(tmp_path, {"model": {"size": 2}})
    with pytest.raises(ValueError, match=r"holds results with model\.size 2, not 3: give another output folder"):
        remember_configuration(tmp_path, {"model": {"size": 3}})
