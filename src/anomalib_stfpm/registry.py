"""The one place that leans on how anomalib finds its models and datamodules."""

import anomalib.data
import anomalib.models
from anomalib.data import AnomalibDataModule

MODULE = "anomalib_stfpm"


def register_models() -> None:
    """Let anomalib's ``get_model`` import this package by class path.

    anomalib finds a model by its bare name among the direct subclasses of ``AnomalibModule``, the last one first, so
    the plugin's ``Stfpm`` answers to ``get_model("stfpm")`` from the moment it is defined. A class path is imported
    only from the modules that ``ALLOWED_MODULES`` lists.
    """
    anomalib.models.ALLOWED_MODULES.add(MODULE)


def register_datamodule(datamodule: type[AnomalibDataModule]) -> None:
    """Let anomalib's ``get_datamodule``, and so its benchmark pipeline, find a datamodule of this package.

    ``get_datamodule`` drops the module of a class path and looks the class up in ``anomalib.data``.

    Args:
        datamodule: The class to make known.
    """
    setattr(anomalib.data, datamodule.__name__, datamodule)
