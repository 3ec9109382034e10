"""The quickstart prints what a user needs, and nothing twice."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.readme import REPOSITORY

pytestmark = [pytest.mark.integration, pytest.mark.slow]

OWN = "from anomalib_stfpm_deploy.cli import main; main()"
STOCK = "from anomalib.cli.cli import main; main()"
NEEDED = (
    r"Seed set to 0|GPU available|`Trainer\.fit` stopped|Epoch 0/0|\s+train_loss|Testing|Throughput|[┏┃┡│└]|"
    r".* - anomalib\.callbacks\.timer - INFO - (Training|Testing) took"
)
BEFORE_PLUGINS_ARE_IMPORTED = r".*FutureWarning: (Importing from timm|The anomalib\S+dinov2)|  (warn|from)"


@pytest.mark.parametrize(("command", "also"), [(OWN, ()), (STOCK, [BEFORE_PLUGINS_ARE_IMPORTED])])
def test_the_quickstart_prints_only_what_a_user_needs(command: str, also: Sequence[str], tmp_path: Path) -> None:
    short = ["--trainer.max_epochs", "1", "--trainer.check_val_every_n_epoch", "1"]
    run = [sys.executable, "-c", command, "train", "--config", str(REPOSITORY / "configs" / "quickstart.yaml"), *short]
    done = subprocess.run(
        run, cwd=tmp_path, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8"
    )
    lines = [line for line in done.stdout.splitlines() if line.strip()]
    assert done.returncode == 0, done.stdout
    assert [line for line in lines if not re.match("|".join([NEEDED, *also]), line)] == []
    assert len(set(lines)) == len(lines)
