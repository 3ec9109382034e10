"""Protection of Python's signal handling from OpenVINO."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Restore the signal stack of this thread at the end of the block; on Linux only.

    Each ``openvino.Core`` sets its own signal stack, and restores the previous one when it is deleted. If that one was
    of a core deleted before, as happens with NNCF, the next signal, such as Ctrl-C, would crash Python.
    """
    if sys.platform != "linux":
        yield
        return
    library, kept = ctypes.CDLL(None), _Stack()
    library.sigaltstack(None, ctypes.byref(kept))
    try:
        yield
    finally:
        library.sigaltstack(ctypes.byref(kept), None)
