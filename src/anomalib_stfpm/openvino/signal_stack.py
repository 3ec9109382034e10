"""The stack that signals are handled on stays what it was, whatever becomes of OpenVINO's."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """``stack_t`` of Linux."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give this thread back the stack that it handles signals on.

    Each ``openvino.Core`` gives signals a stack of its own, and puts back at its end that of the one before, which may
    have ended earlier, as those of NNCF do. The next signal, a Ctrl-C or the end of a worker process, would then crash
    Python. Does nothing on systems other than Linux.

    Yields:
        Nothing.

    Example:
        >>> with signal_stack_kept():
        ...     pass
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
