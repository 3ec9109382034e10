"""Input that is wrong ends in one clear sentence, and leaves every file as it was.

A module an area, a line an input. ``pytest tests/refusals`` prints of how many inputs that is so.
"""

import pytest

pytest.register_assert_rewrite("tests.refusals.harness")
