"""Refuse images that are too small to train on, before the first of them is read where possible."""

from typing import Any

from torch.nn.modules.batchnorm import _BatchNorm

from anomalib_stfpm.components.pre_processor import fixed_size
from anomalib_stfpm.torch_model import StfpmModel


def check_all(loader: Any, pre_processor: Any, model: StfpmModel) -> None:  # noqa: ANN401
    """Check the batches of a training dataloader, if the pre-processor resizes all images to one size.

    Raises:
        ValueError: See :func:`check`.
    """
    size = fixed_size(getattr(pre_processor, "transform", None))
    if size is not None:
        batch_size, images = getattr(loader, "batch_size", None), len(getattr(loader, "sampler", None) or ())
        last = 0 if not batch_size or loader.drop_last else images % batch_size
        check(1 if 1 in {batch_size, last} else 2, *size, model)


def check(number: int, height: int, width: int, model: StfpmModel) -> None:
    """Check a batch.

    Batch normalisation has no variance of a single value, which the deepest features of one small image are.

    Raises:
        ValueError: If the images are smaller than the stride of the deepest level, or the batch is such an image.
    """
    stride = max(model.student.strides)
    if model.tiler is not None or max(height, width) > stride <= min(height, width):
        return
    if min(height, width) < stride:
        msg = (
            f"Images of {height} x {width} pixels are too small for {model.student.layers[-1]}: "
            f"make them at least {stride} x {stride}, or choose other layers."
        )
        raise ValueError(msg)
    if number == 1 and any(isinstance(part, _BatchNorm) for part in model.student.modules()):
        msg = (
            f"A training batch of one image of {height} x {width} pixels is too little for batch normalisation: "
            "give a larger input_size, or a train_batch_size that leaves no image alone."
        )
        raise ValueError(msg)
