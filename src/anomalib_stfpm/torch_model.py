"""The networks of STFPM: a frozen teacher and a student of the same shape."""

from collections.abc import Mapping, Sequence

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import nn

from .anomaly_map import AnomalyMap
from .feature_pyramid import FeaturePyramid

Pyramids = tuple[list[torch.Tensor], list[torch.Tensor]]


class StfpmModel(nn.Module):
    """Teacher and student pyramids, and the anomaly map between them.

    The teacher is frozen: its parameters need no gradient and it stays in eval mode whatever :meth:`train` says, so its
    batch-normalisation statistics never move. It is random until :meth:`load_teacher` or a checkpoint gives it weights;
    the buffer ``teacher_is_loaded`` says whether that has happened, and goes with the checkpoint.

    Args:
        backbone: Name of a timm model.
        layers: Levels by module name or index; ``None`` takes strides 4, 8 and 16.
        map_size: Height and width at which the level maps are multiplied; ``None`` takes a quarter of the image.

    Raises:
        ValueError: If the backbone, a level or the map size is not valid.
    """

    teacher_is_loaded: torch.Tensor

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        layers: Sequence[str | int] | None = None,
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.tiler: Tiler | None = None  # set by anomalib's TilerConfigurationCallback
        self.teacher = FeaturePyramid(backbone, layers).requires_grad_(False).eval()
        self.student = FeaturePyramid(backbone, layers)
        self.anomaly_map = AnomalyMap(map_size)
        self.register_buffer("teacher_is_loaded", torch.tensor(False))

    def train(self, mode: bool = True) -> "StfpmModel":
        """Set the mode of the student; the teacher stays in eval mode.

        Args:
            mode: Whether to train.

        Returns:
            The model itself.
        """
        super().train(mode)
        self.teacher.eval()
        return self

    def load_teacher(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Give the teacher its weights.

        Args:
            state_dict: Weights of the complete backbone, as :func:`anomalib_stfpm.teacher_weights.read` returns them.
        """
        self.teacher.load_backbone(state_dict)
        self.teacher_is_loaded.fill_(True)

    def pyramids(self, images: torch.Tensor) -> Pyramids:
        """Compute the feature pyramids of teacher and student.

        With anomalib's tiling the networks see the tiles, and the features are put together again.

        Args:
            images: Pre-processed images of shape ``(N, 3, H, W)``.

        Returns:
            The teacher's and the student's pyramid, each with one ``(N, C_l, H_l, W_l)`` tensor a level.
        """
        tiler = self.tiler
        tiles = tiler.tile(images) if tiler else images
        with torch.no_grad():
            teacher_pyramid = self.teacher(tiles)
        student_pyramid = self.student(tiles)
        if tiler:
            teacher_pyramid = [tiler.untile(features) for features in teacher_pyramid]
            student_pyramid = [tiler.untile(features) for features in student_pyramid]
        return teacher_pyramid, student_pyramid

    def forward(self, images: torch.Tensor) -> Pyramids | InferenceBatch:
        """Compute the pyramids while training, the anomaly map and score otherwise.

        Args:
            images: Pre-processed images of shape ``(N, 3, H, W)``.

        Returns:
            In training mode the teacher's and the student's pyramid, see :meth:`pyramids`. In eval mode an
            ``InferenceBatch`` with ``anomaly_map`` of shape ``(N, 1, H, W)`` and ``pred_score`` of shape ``(N, 1)``,
            the maximum of the map.
        """
        teacher_pyramid, student_pyramid = self.pyramids(images)
        if self.training:
            return teacher_pyramid, student_pyramid
        anomaly_map = self.anomaly_map(teacher_pyramid, student_pyramid, images.shape[-2:])
        return InferenceBatch(pred_score=anomaly_map.amax(dim=(-2, -1)), anomaly_map=anomaly_map)
