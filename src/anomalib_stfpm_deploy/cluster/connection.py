"""The connection to a Ray cluster: one that is running, or one of this machine alone."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from anomalib_stfpm_deploy.machine import load

AUTO, LOCAL = "auto", "local"
HELP = "auto: the Ray cluster of this machine; HOST:PORT: that of a head node; local: one of this machine alone"

_SECONDS_TO_ANSWER = 10.0
_HOST_AND_PORT = re.compile(r"[^\s/:]+:\d{1,5}")


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Connect to a cluster, unless this process is connected already.

    Args:
        address: ``auto``, ``HOST:PORT`` or ``local``.

    Yields:
        The module ``ray``.

    Raises:
        MissingPackageError: If Ray is not installed.
        ValueError: If it is no address.
        ConnectionError: If no cluster answers there.
    """
    if address not in (AUTO, LOCAL) and not _HOST_AND_PORT.fullmatch(address):
        msg = f"--cluster must be auto, local or HOST:PORT, such as 10.0.0.1:6379: got '{address}'."
        raise ValueError(msg)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report what is run to its makers
    ray: Any = load("ray")
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == LOCAL:
        options["include_dashboard"] = False
    elif address == AUTO:
        address = os.environ.get("RAY_ADDRESS", AUTO)
    if _HOST_AND_PORT.fullmatch(address):
        _require_answer(address)
    try:
        ray.init(address, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        msg = f"There is no Ray cluster to use at '{address}' ({_first_line(error)}): run 'ray start --head' there."
        raise ConnectionError(msg) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise if no head node answers. Ray would try for many minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as error:
        msg = f"No Ray cluster answers at '{address}' ({error}): run 'ray start --head' there, or give its address."
        raise ConnectionError(msg) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
