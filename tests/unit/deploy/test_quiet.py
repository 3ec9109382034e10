"""Commands hide known messages of dependencies, and no others."""

import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator

import pytest

from anomalib_stfpm_deploy.quiet import HideMessages, hide, hide_known_messages

RANK_ZERO = "lightning.pytorch.utilities.rank_zero"


@pytest.fixture(autouse=True)
def _filters_are_removed() -> Iterator[None]:
    with warnings.catch_warnings():
        yield
    for name in [*logging.root.manager.loggerDict]:
        for one in [one for one in logging.getLogger(name).filters if isinstance(one, HideMessages)]:
            logging.getLogger(name).removeFilter(one)


def test_a_known_warning_is_hidden_and_a_new_one_still_shows() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        hide_known_messages()
        warnings.warn("Found 190 module(s) in eval mode at the start of training.", UserWarning, stacklevel=1)
        warnings.warn("Importing from timm.models.layers is deprecated, please ...", FutureWarning, stacklevel=1)
        warnings.warn("Importing from timm.models.heads is deprecated", FutureWarning, stacklevel=1)
        warnings.warn("The loss is odd", UserWarning, stacklevel=1)
    assert [str(one.message) for one in shown] == ["Importing from timm.models.heads is deprecated", "The loss is odd"]


def test_a_known_log_message_is_hidden_and_a_new_one_still_shows(caplog: pytest.LogCaptureFixture) -> None:
    hide_known_messages()
    logger = logging.getLogger(RANK_ZERO)
    with caplog.at_level(logging.INFO, RANK_ZERO):
        logger.addHandler(caplog.handler)  # Lightning's loggers do not propagate
        logger.info("TPU available: False, using: 0 TPU cores")
        logger.info("GPU available: True, used: False")
        logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"GPU available: True, used: False"}


def test_a_message_is_filtered_once_however_often_it_is_asked_for() -> None:
    for _ in range(2):
        hide("anomalib_stfpm.quiet", "Known")
    assert len(logging.getLogger("anomalib_stfpm.quiet").filters) == 1


def test_importing_the_package_hides_nothing_of_a_users_program() -> None:
    code = "import warnings, anomalib_stfpm; warnings.warn('Found 2 module(s) in eval mode at the start of training')"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "Found 2 module(s) in eval mode" in done.stderr
