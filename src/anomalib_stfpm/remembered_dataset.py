"""A dataset that reads no picture which is remembered."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from anomalib.data import ImageBatch, ImageItem
from PIL.Image import DecompressionBombError
from torch.utils.data import Dataset, get_worker_info
from torchvision.tv_tensors import Image, Mask


class RememberedDataset(Dataset[ImageItem]):
    """A dataset of anomalib that reads no picture which is remembered: it gives a blank one, to be filled in.

    Worker processes so need no memory of their own: they get what is blank when they start. Without worker processes,
    the pictures of a batch are read by as many threads as the training uses.

    Args:
        dataset: The dataset.
    """

    def __init__(self, dataset: Any) -> None:  # noqa: ANN401
        self.dataset = dataset
        self._paths = [str(path) for path in dataset.samples["image_path"]]
        # Plain values, not tensors, for worker processes to be given thousands of them.
        self._labels: dict[str, tuple[bool | None, str | None]] = {}
        self._image: Image | None = None
        self._mask: Mask | None = None

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self._paths)

    def __getitem__(self, index: int) -> ImageItem:
        """Read a picture, or give a blank one.

        Args:
            index: Number of the picture.

        Returns:
            The item, whose image and mask are zeros if they are remembered.

        Raises:
            ValueError: If the file cannot be read as a picture.
        """
        path = self._paths[index]
        if path not in self._labels:
            return self._read(index)
        label, mask_path = self._labels[path]
        gt_label = None if label is None else torch.tensor(label)
        return ImageItem(image=self._image, gt_mask=self._mask, gt_label=gt_label, image_path=path, mask_path=mask_path)

    def _read(self, index: int) -> ImageItem:
        try:
            item: ImageItem = self.dataset[index]
        except (OSError, SyntaxError, DecompressionBombError) as error:
            # Of Pillow, which may not say which file it was.
            msg = f"'{self._paths[index]}', or the mask of it, cannot be read as a picture ({error})."
            raise ValueError(msg) from error
        return item

    def __getitems__(self, indices: list[int]) -> list[ImageItem]:
        """Read the pictures of a batch, see :meth:`__getitem__`.

        Args:
            indices: Numbers of the pictures.

        Returns:
            The items, in this order.
        """
        if get_worker_info() is not None:
            return [self[index] for index in indices]
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            return list(threads.map(self.__getitem__, indices))

    def blank_out(self, paths: list[str], batch: ImageBatch, image: torch.Tensor, mask: torch.Tensor | None) -> None:
        """Read some pictures no more.

        Args:
            paths: Their paths.
            batch: A batch that they are in.
            image: Images of the batch as they were loaded, of shape ``(N, 3, H, W)``.
            mask: Masks of the batch as they were loaded, of shape ``(N, H, W)``, if there are any.
        """
        self._image = Image(torch.zeros(1, dtype=image.dtype).expand(image.shape[1:]))
        self._mask = None if mask is None else Mask(torch.zeros(1, dtype=mask.dtype).expand(mask.shape[1:]))
        position = {path: position for position, path in enumerate(picture_paths(batch))}
        for path in paths:
            label = None if batch.gt_label is None else bool(batch.gt_label[position[path]])
            mask_path = None if batch.mask_path is None else batch.mask_path[position[path]]
            self._labels[path] = (label, mask_path)

    def read_all(self) -> None:
        """Read all pictures again."""
        self._labels.clear()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        """Answer for the dataset in everything else."""
        if name == "dataset":  # asked for before it is set, by copy and pickle
            raise AttributeError(name)
        return getattr(self.dataset, name)


def picture_paths(batch: ImageBatch) -> list[str]:
    """Say which pictures a batch holds.

    Args:
        batch: The batch.

    Returns:
        Their paths.
    """
    return [str(path) for path in batch.image_path or []]
