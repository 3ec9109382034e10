"""Independent jobs: one after the other in this process, or side by side on a Ray cluster."""

import os
import platform
import sys
import traceback
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from anomalib_stfpm_deploy import files
from anomalib_stfpm_deploy.cli import configure_libraries
from anomalib_stfpm_deploy.cluster.connection import LOCAL, connected
from anomalib_stfpm_deploy.machine import JOBS_PER_MACHINE, load

RETRIES = 3
"""How often a job starts again after its worker or its machine has died."""

_MARK = ".seen_by_the_cluster"

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@dataclass(frozen=True)
class Cluster:
    """Where jobs run, and what each asks for.

    Args:
        address: ``auto`` for the Ray cluster of this machine, ``HOST:PORT`` for that of a head node, or ``local`` for
            one of this machine alone.
        cpus: CPUs, and threads, of a job.
        gpus: GPUs of a job, or a share of one; ``None`` for one if the cluster has any.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> Cluster("10.0.0.1:6379", cpus=2).gpus is None
        True
    """

    address: str
    cpus: int = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.cpus < 1 or (self.gpus is not None and not 0 <= self.gpus < float("inf")):
            msg = f"A job must have at least 1 CPU and 0 GPUs: got {self.cpus} and {self.gpus}."
            raise ValueError(msg)


@dataclass(frozen=True)
class Failure:
    """Why a job came to nothing.

    Args:
        reason: The error, or how its workers have died.
        trace: Where it was raised.

    Example:
        >>> Failure("ValueError: the images are damaged", "Traceback ...").reason
        'ValueError: the images are damaged'
    """

    reason: str
    trace: str


@dataclass(frozen=True)
class _Unseen:
    """A machine that does not see the output folder."""

    machine: str


def outcomes(
    jobs: Mapping[Key, Callable[[], Value]], cluster: Cluster | None, folder: Path
) -> Iterator[tuple[Key, Value | Failure]]:
    """Do jobs, and yield what each has come to as soon as it has ended.

    An error of a job is its failure. A worker or a machine that dies makes its jobs start again elsewhere.

    Args:
        jobs: By key, what to do. On a cluster, they run in the working directory of this process.
        cluster: Where to run them side by side; ``None`` for one after the other in this process.
        folder: The folder that the jobs write to. All machines of the cluster must see it.

    Yields:
        The key of a job, and what it returned or its failure.

    Raises:
        MissingPackageError: If Ray is not installed.
        ConnectionError: If no cluster answers.
        ValueError: If a machine does not see the folder, or none could ever run a job.

    Example:
        >>> dict(outcomes({"screw": lambda: 1, "bolt": lambda: 2}, None, Path("results")))
        {'screw': 1, 'bolt': 2}
    """
    if cluster is None:
        return ((key, _tried(job)) for key, job in jobs.items())
    return _on_cluster(jobs, cluster, folder.resolve())


def _tried(job: Callable[[], Value]) -> Value | Failure:
    try:
        return job()
    except Exception as error:  # the other jobs go on
        return Failure(f"{type(error).__name__}: {error}", traceback.format_exc())


def _on_cluster(
    jobs: Mapping[Key, Callable[[], Value]], cluster: Cluster, folder: Path
) -> Iterator[tuple[Key, Value | Failure]]:
    mark, secret = folder / _MARK, uuid4().hex
    with connected(cluster.address) as ray:
        gpus = float("GPU" in ray.cluster_resources()) if cluster.gpus is None else cluster.gpus
        _check_resources(ray, cluster, gpus)
        files.write_text(mark, secret)
        remote = ray.remote(_attempt).options(
            num_cpus=cluster.cpus, num_gpus=gpus, max_retries=RETRIES, scheduling_strategy="SPREAD"
        )
        running: dict[Any, Key] = {}
        try:
            for key, job in jobs.items():
                pickled = ray.cloudpickle.dumps(job)
                running[remote.remote(pickled, mark, secret, Path.cwd(), cluster.cpus, gpus)] = key
            while running:
                (done, *_), _ = ray.wait(list(running))
                outcome = _come_to(done, ray)
                if isinstance(outcome, _Unseen):
                    msg = (
                        f"The machine '{outcome.machine}' does not see '{folder}': give an output folder on a file "
                        "system that all machines of the cluster share, at the same path."
                    )
                    raise ValueError(msg)
                yield running.pop(done), outcome
        finally:
            for left in running:
                ray.cancel(left, force=True)
            with suppress(OSError):
                mark.unlink()


def _check_resources(ray: Any, cluster: Cluster, gpus: float) -> None:  # noqa: ANN401
    """Refuse, or on a cluster that may grow announce, to wait for a machine that is not there."""
    there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if any(one.get("CPU", 0) >= cluster.cpus and one.get("GPU", 0) >= gpus for one in there):
        return
    said = f"No machine of the cluster has {cluster.cpus} CPUs and {gpus:g} GPUs, which a job asks for"
    if cluster.address == LOCAL:
        msg = f"{said}: ask for less."
        raise ValueError(msg)
    print(f"{said}: the jobs wait until one joins.", file=sys.stderr)


def _come_to(done: Any, ray: Any) -> Any:  # noqa: ANN401
    try:
        return ray.get(done)
    except ray.exceptions.RayError as error:
        first = next(iter(str(error).strip().splitlines()), "").rstrip(".")
        return Failure(f"{type(error).__name__}: {first} (it was tried {RETRIES + 1} times)", str(error))


def _attempt(pickled: bytes, mark: Path, secret: str, directory: Path, cpus: int, gpus: float) -> object:
    """Do a job in a worker of the cluster."""
    try:
        if mark.read_text(encoding="utf-8") != secret:
            return _Unseen(platform.node())
    except OSError:
        return _Unseen(platform.node())
    if directory.is_dir():
        os.chdir(directory)
    ray: Any = load("ray")
    (node,) = (one for one in ray.nodes() if one["NodeID"] == ray.get_runtime_context().get_node_id())
    has: dict[str, float] = node["Resources"]
    side_by_side = min(has.get("CPU", cpus) / cpus, has.get("GPU", gpus) / gpus if gpus else float("inf"))
    os.environ[JOBS_PER_MACHINE] = str(max(1, int(side_by_side)))
    # Before the job is unpickled, which imports what reads them.
    os.environ["OMP_NUM_THREADS"] = str(cpus)
    if not gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    configure_libraries()
    return _tried(lambda: ray.cloudpickle.loads(pickled)())
