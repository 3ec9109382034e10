"""Several processes count every image once, though Lightning repeats some."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DistributedSampler


def count_unrepeated(loaders: Any, batch_idx: int, dataloader_idx: int, images: int) -> int:  # noqa: ANN401
    """Count the images at the start of a batch that no other process sees.

    Lightning gives all processes equally many images by repeating some at the end. With fewer images than processes
    all are counted, because every process needs at least one.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> loader = DataLoader(range(5), batch_size=2, sampler=sampler)
        >>> [(batch.tolist(), count_unrepeated(loader, i, 0, len(batch))) for i, batch in enumerate(loader)]
        [([1, 3], 2), ([0], 0)]
    """
    loader = loaders[dataloader_idx] if isinstance(loaders, Sequence) else loaders
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.shuffle or sampler.drop_last:
        return images
    all_images: int = len(sampler.dataset)  # type: ignore[arg-type]
    if all_images < sampler.num_replicas:
        return images
    own = len(range(sampler.rank, all_images, sampler.num_replicas))
    before: int = batch_idx * loader.batch_size
    return min(images, max(0, own - before))
