"""anomalib's own models on the teacher and pre-processing of this package's, to compare with."""

from functools import partial

from anomalib.models.components import AnomalibModule

from anomalib_stfpm.backbone.teacher_weights import read
from anomalib_stfpm.comparison import DEFAULT_MODELS, Conditions, Contestant
from anomalib_stfpm.comparison.pretrained import pretrained


def _peer(contestant: Contestant, backbone: str, teacher_weights: str) -> AnomalibModule:
    with pretrained(backbone, read(backbone, teacher_weights)):
        return contestant.make(Conditions(backbone, teacher_weights))


stfpm, patchcore, padim = (partial(_peer, contestant) for contestant in DEFAULT_MODELS[1:])
"""From backbone and teacher weights, as a comparison makes them by default."""
