"""Ray is imported for a cluster only, and an address is refused in one sentence."""

import subprocess
import sys
from pathlib import Path

import pytest

from anomalib_stfpm_deploy.cluster.connection import connected
from anomalib_stfpm_deploy.cluster.jobs import Cluster, Failure, outcomes
from anomalib_stfpm_deploy.machine import MissingPackageError


def test_nothing_imports_ray_without_a_cluster() -> None:
    program = """
import sys
from anomalib_stfpm.verbs import compare, reproduce, train_all
from anomalib_stfpm_deploy import infer
from anomalib_stfpm_deploy.cluster.jobs import outcomes
print(list(outcomes({1: str}, None, None)), "ray" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[(1, '')] False\n"


def test_a_missing_ray_is_named_with_the_extra_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(MissingPackageError, match=r"^This needs ray: pip install 'anomalib-stfpm\[cluster\]'\.$"),
        connected("local"),
    ):
        pass


@pytest.mark.parametrize("address", ["nowhere", "ray://head:10001", "10.0.0.1", "10.0.0.1:x", ""])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"^--cluster must be auto, local or HOST:PORT, .*got '"), connected(address):
        pass


def test_an_address_where_no_cluster_answers_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    sentence = r"^No Ray cluster answers at '127\.0\.0\.1:1' \(.*refused.*\): run 'ray start --head' there, or give its"
    with pytest.raises(ConnectionError, match=sentence), connected("127.0.0.1:1"):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConnectionError, match=sentence), connected("auto"):
        pass


@pytest.mark.parametrize("given", [{"cpus": 0}, {"gpus": -1.0}, {"gpus": float("nan")}])
def test_a_job_asks_for_what_there_can_be(given: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="A job must have at least 1 CPU and 0 GPUs: got "):
        Cluster("local", **given)


def test_jobs_of_this_process_are_done_in_turn_and_an_error_stops_none(tmp_path: Path) -> None:
    given = {"fails": lambda: int("x"), "works": lambda: int("1")}
    done = list(outcomes(given, None, tmp_path))
    assert [key for key, _ in done] == ["fails", "works"]
    assert isinstance(done[0][1], Failure)
    assert done[0][1].reason.startswith("ValueError: invalid literal")
    assert done[1][1] == 1
