"""Student-Teacher Feature Pyramid Matching for anomalib.

Importing the package registers :class:`Stfpm` with anomalib: ``get_model("stfpm")`` returns it from then on, and
``anomalib --model anomalib_stfpm.Stfpm`` needs no import at all. anomalib's own class stays ``anomalib.models.Stfpm``.

Reference:
    Wang et al., Student-Teacher Feature Pyramid Matching for Anomaly Detection, BMVC 2021,
    https://arxiv.org/abs/2103.04257
"""

from .anomaly_map import AnomalyMap, MapContrast, MapSmoothing
from .evaluator import RawEvaluator
from .feature_pyramid import FeaturePyramid, available_levels
from .lightning_model import Stfpm
from .loss import StfpmLoss
from .original_checkpoint import import_checkpoint
from .published_pro import PublishedPRO
from .registry import (
    give_components_to_configured_models,
    honour_seed,
    number_folders_one_by_one,
    register_models,
)
from .torch_model import StfpmModel

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
    "import_checkpoint",
]
__version__ = "0.1.0"

register_models()
honour_seed()
number_folders_one_by_one()
give_components_to_configured_models()
