"""A dataset that does not read the images that the cache holds."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from torch.utils.data import Dataset, get_worker_info
from torchvision.tv_tensors import Image, Mask


class RememberedDataset(Dataset[ImageItem]):
    """Wrap a dataset of anomalib and return a blank image for each cached one, to be filled in from the cache.

    Worker processes therefore need no copy of the cache. Without worker processes, as many threads as training uses
    read the images of a batch.
    """

    def __init__(self, dataset: Any) -> None:  # noqa: ANN401
        self.dataset = dataset
        self._paths = [str(path) for path in dataset.samples["image_path"]]
        # Plain values, not tensors: worker processes get thousands of them.
        self._labels: dict[str, tuple[bool | None, str | None]] = {}
        self._blank_image: Image | None = None
        self._blank_mask: Mask | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._paths)

    def __getitem__(self, index: int) -> ImageItem:
        """Read an image, or return a blank one if the cache holds it."""
        path = self._paths[index]
        if path not in self._labels:
            item: ImageItem = self.dataset[index]
            return item
        label, mask_path = self._labels[path]
        gt_label = None if label is None else torch.tensor(label)
        return ImageItem(
            image=self._blank_image, gt_mask=self._blank_mask, gt_label=gt_label, image_path=path, mask_path=mask_path
        )

    def __getitems__(self, indices: list[int]) -> list[ImageItem]:
        """Read the images of a batch."""
        if get_worker_info() is not None:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            return list(threads.map(self.__getitem__, indices))

    def blank_out(self, paths: list[str], batch: ImageBatch, image: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Stop reading the images at ``paths``, which are part of a batch; ``image`` and ``mask`` are as loaded."""
        self._blank_image = Image(torch.zeros(1, dtype=image.dtype).expand(image.shape[1:]))
        self._blank_mask = None if mask is None else Mask(torch.zeros(1, dtype=mask.dtype).expand(mask.shape[1:]))
        position = {path: position for position, path in enumerate(image_paths(batch))}
        for path in paths:
            label = None if batch.gt_label is None else bool(batch.gt_label[position[path]])
            mask_path = None if batch.mask_path is None else batch.mask_path[position[path]]
            self._labels[path] = (label, mask_path)

    def read_all(self) -> None:
        """Read all images again."""
        self._labels.clear()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Return any other attribute of the dataset."""
        if name == "dataset":  # copy and pickle ask before it is set
            raise AttributeError(name)
        return getattr(self.dataset, name)


def image_paths(batch: ImageBatch) -> list[str]:
    """Return the paths of the images in a batch."""
    return [str(path) for path in batch.image_path or []]
