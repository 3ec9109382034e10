"""The networks of STFPM: a frozen teacher and a student of the same shape."""

from collections.abc import Mapping, Sequence

import torch
from anomalib.data import InferenceBatch
from anomalib.data.utils.tiler import Tiler
from torch import nn

from anomalib_stfpm.anomaly_map import AnomalyMap, MapContrast, MapSmoothing
from anomalib_stfpm.backbone.feature_pyramid import FeaturePyramid
from anomalib_stfpm.backbone.resize import enlarge
from anomalib_stfpm.components.tiling import check_tiler, tiled

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
        level_powers: Power of each level map in the product; ``None`` takes 1 for all.
        map_contrast: Power of the image's mean by which its map, but not its score, is divided; less than 1.
        map_smoothing: Standard deviation, in pixels of ``map_size``, of a Gaussian blur of the map, but not its score.

    Raises:
        ValueError: If the backbone, a level, the map size, a power, the contrast or the smoothing is not valid.

    Example:
        >>> import timm
        >>> model = StfpmModel("resnet18").eval()
        >>> model.load_teacher(timm.create_model("resnet18").state_dict())  # random, for show
        >>> with torch.no_grad():
        ...     prediction = model(torch.rand(2, 3, 64, 64))
        >>> prediction.anomaly_map.shape, prediction.pred_score.shape
        (torch.Size([2, 1, 64, 64]), torch.Size([2, 1]))
    """

    teacher_is_loaded: torch.Tensor

    def __init__(
        self,
        backbone: str = "resnet18.tv_in1k",
        layers: Sequence[str | int] | None = None,
        map_size: tuple[int, int] | None = None,
        level_powers: Sequence[float] | None = None,
        map_contrast: float = 0.0,
        map_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self._tiler: Tiler | None = None
        self.teacher = FeaturePyramid(backbone, layers).requires_grad_(False).eval()
        self.student = FeaturePyramid(backbone, layers)
        self.anomaly_map = AnomalyMap(map_size, level_powers)
        self.map_smoothing = MapSmoothing(map_smoothing)
        self.map_contrast = MapContrast(map_contrast)
        self.register_buffer("teacher_is_loaded", torch.tensor(False))

    @property
    def tiler(self) -> Tiler | None:
        """What cuts images into tiles for the networks; anomalib's ``TilerConfigurationCallback`` sets it."""
        return self._tiler

    @tiler.setter
    def tiler(self, tiler: Tiler | None) -> None:
        if tiler is not None:
            check_tiler(tiler, max(self.teacher.strides))
        self._tiler = tiler

    def train(self, mode: bool = True) -> "StfpmModel":
        """Set the mode of the student; the teacher stays in eval mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def load_teacher(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Give the teacher its weights."""
        self.teacher.load_backbone(state_dict)
        self.teacher_is_loaded.fill_(True)

    def require_teacher(self, action: str) -> None:
        """Raise an error if the teacher has no weights.

        Raises:
            ValueError: If the teacher has no weights.
        """
        if not self.teacher_is_loaded:
            msg = f"Cannot {action} with an untrained Stfpm: train it first, or give the checkpoint of a trained one."
            raise ValueError(msg)

    def teacher_pyramid(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature pyramid of the teacher, without gradients.

        With anomalib's tiling the networks see the tiles, and the features are put together again.

        Args:
            images: Pre-processed images of shape ``(N, 3, H, W)``.

        Returns:
            One ``(N, C_l, H_l, W_l)`` tensor a level.
        """
        with torch.no_grad():
            return self._tiled(self.teacher, images)

    def student_pyramid(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Compute the feature pyramid of the student."""
        return self._tiled(self.student, images)

    def _tiled(self, network: FeaturePyramid, images: torch.Tensor) -> list[torch.Tensor]:
        if self.tiler is not None:
            return tiled(self.tiler, network, images)
        pyramid: list[torch.Tensor] = network(images)
        return pyramid

    def predict(
        self,
        teacher_pyramid: list[torch.Tensor],
        student_pyramid: list[torch.Tensor],
        image_size: tuple[int, int] | torch.Size,
        *,
        teacher_is_normalised: bool = False,
    ) -> InferenceBatch:
        """Turn pyramids into anomaly map and score.

        Args:
            teacher_pyramid: One ``(N, C_l, H_l, W_l)`` tensor a level.
            student_pyramid: Tensors of the same shapes.
            image_size: Height and width of the images, in pixels.
            teacher_is_normalised: Whether the teacher's features are normalised already, and need not be again.

        Returns:
            An ``InferenceBatch`` with ``anomaly_map`` of shape ``(N, 1, H, W)`` and ``pred_score`` of shape ``(N, 1)``,
            the maximum of the map before it is smoothed and its contrast changed.
        """
        product = self.anomaly_map.product(
            teacher_pyramid, student_pyramid, image_size, teacher_is_normalised=teacher_is_normalised
        )
        anomaly_map = enlarge(product, image_size)
        pred_score = anomaly_map.amax(dim=(-2, -1))
        shown = self.map_contrast(self.map_smoothing(product))
        if shown is not product:
            anomaly_map = enlarge(shown, image_size)
        return InferenceBatch(pred_score=pred_score, anomaly_map=anomaly_map)

    def forward(self, images: torch.Tensor) -> Pyramids | InferenceBatch:
        """Compute the pyramids while training, the anomaly map and score otherwise.

        Args:
            images: Pre-processed images of shape ``(N, 3, H, W)``.

        Returns:
            In training mode the teacher's and the student's pyramid. In eval mode what :meth:`predict` makes of them.
        """
        teacher_pyramid, student_pyramid = self.teacher_pyramid(images), self.student_pyramid(images)
        if self.training:
            return teacher_pyramid, student_pyramid
        return self.predict(teacher_pyramid, student_pyramid, images.shape[-2:])
