"""Student-Teacher Feature Pyramid Matching for anomalib.

Importing the package registers :class:`Stfpm` with anomalib: ``get_model("stfpm")`` returns it from then on, and
``anomalib --model anomalib_stfpm.Stfpm`` needs no import at all. anomalib's own class stays ``anomalib.models.Stfpm``.

Reference:
    Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021,
    https://arxiv.org/abs/2103.04257
"""

from anomalib_stfpm import data
from anomalib_stfpm.anomaly_map import AnomalyMap, MapContrast, MapSmoothing
from anomalib_stfpm.backbone.feature_pyramid import FeaturePyramid, available_levels
from anomalib_stfpm.components.evaluator import RawEvaluator
from anomalib_stfpm.components.published_pro import PublishedPRO
from anomalib_stfpm.lightning_model import Stfpm
from anomalib_stfpm.loss import StfpmLoss
from anomalib_stfpm.registry import (
    accept_components_in_get_model,
    export_beside_checkpoint,
    lock_folder_numbering,
    prepare_command_line,
    register_models,
)
from anomalib_stfpm.reproduction.original_checkpoint import import_checkpoint
from anomalib_stfpm.torch_model import StfpmModel

__all__ = [
    "AnomalyMap",
    "FeaturePyramid",
    "MapContrast",
    "MapSmoothing",
    "PublishedPRO",
    "RawEvaluator",
    "Stfpm",
    "StfpmLoss",
    "StfpmModel",
    "available_levels",
    "data",
    "import_checkpoint",
]
__version__ = "0.1.0"

register_models()
prepare_command_line()
lock_folder_numbering()
accept_components_in_get_model()
export_beside_checkpoint()
