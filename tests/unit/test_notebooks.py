"""The notebooks are in the repository without outputs, and README and docs link to them."""

import json
from pathlib import Path

import pytest

from tests.readme import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


def test_there_are_three() -> None:
    assert [path.name for path in NOTEBOOKS] == [
        "1_train_and_read.ipynb",
        "2_deploy_with_openvino.ipynb",
        "3_choose_a_model.ipynb",
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_each_is_without_outputs_and_linked(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"] is not None] == []
    for page in ("README.md", "docs/notebooks.md"):
        assert f"notebooks/{path.stem}" in (REPOSITORY / page).read_text(encoding="utf-8")
