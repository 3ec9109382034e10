"""Refuse every connection of a Python process that has this folder on its path."""

import socket
from typing import NoReturn


def _refuse(*args: object, **kwargs: object) -> NoReturn:
    del args, kwargs
    message = "no network in this test"
    raise OSError(message)


socket.socket.connect = _refuse  # type: ignore[method-assign]
socket.getaddrinfo = _refuse
