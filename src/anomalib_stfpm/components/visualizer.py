"""The default visualizer: anomalib's, which keeps the pictures of images of the same name apart."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from anomalib.utils.path import generate_output_filename
from anomalib.visualization import ImageVisualizer


class UniqueNames(ImageVisualizer):
    """anomalib's visualizer, which writes a picture for every image.

    anomalib names a picture after the image and its folder, so that of ``b/x/1.jpg`` overwrites that of ``a/x/1.jpg``.
    Here the second one goes to a folder with the name of one more of its parents, ``b/x/1.jpg``.
    """

    def __init__(self, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(**kwargs)
        self._image_of: dict[Path, Path] = {}

    def on_test_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the pictures of a batch; anomalib calls it for predictions as well."""
        del pl_module, outputs
        if batch_idx == dataloader_idx == 0:
            self._image_of.clear()
        if self.output_dir is None:
            self.output_dir = Path(trainer.default_root_dir) / "images"
        datamodule = getattr(trainer, "datamodule", None)
        names = (getattr(datamodule, "name", None), getattr(datamodule, "category", None))
        for item in batch:
            if item.anomaly_map is not None:
                item.anomaly_map = item.anomaly_map.clamp(0, 1)  # of raw maps, values above 1 would start again at 0
            picture: Any = self.visualize(item)
            if picture is not None:
                image = Path(item.image_path or "")
                file = self._unique(generate_output_filename(image, self.output_dir, *names, mkdir=False), image)
                file.parent.mkdir(parents=True, exist_ok=True)
                picture.save(file)

    def _unique(self, file: Path, image: Path) -> Path:
        folder = Path(self.output_dir or "")
        parents = file.relative_to(folder).parts
        parts = image.parts[1:] if image.is_absolute() else image.parts
        for number in range(len(parents), len(parts) + 1):
            if self._image_of.setdefault(file, image) == image:
                break
            file = folder.joinpath(*parts[-number - 1 :])
        return file
