"""Modules that need packages which not everybody has installed."""

from importlib import import_module
from types import ModuleType

_OF_OPENVINO = {"nncf", "onnx", "onnxscript", "openvino"}


class MissingPackageError(ImportError):
    """A package is missing, and a sentence says how to install it."""


def load(name: str) -> ModuleType:
    """Import a module.

    Args:
        name: Its full name.

    Returns:
        The module.

    Raises:
        MissingPackageError: If it needs a package that is not installed.

    Example:
        >>> load("anomalib_stfpm_deploy.exit_codes").REFUSED
        120
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in _OF_OPENVINO:
            msg = f"This needs {package}: pip install 'anomalib-stfpm[openvino]'."
        else:
            msg = f"Only infer and time do without {package}: install anomalib-stfpm with what it depends on."
        raise MissingPackageError(msg) from error
