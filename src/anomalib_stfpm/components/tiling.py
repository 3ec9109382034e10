"""anomalib's tiling: networks see the tiles of an image, and their features are merged."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from anomalib.data.utils.tiler import ImageUpscaleMode, Tiler, compute_new_image_size, upscale_image
from torch.nn import functional

Settings = dict[str, Any]


def check_tiler(tiler: Tiler, stride: int) -> None:
    """Check that tiles align with the features of the deepest level, whose stride is in pixels of the image.

    Raises:
        ValueError: If tile size or stride is not a multiple of the level's stride, or the borders leave no feature.
    """
    sizes = (tiler.tile_size_h, tiler.tile_size_w, tiler.stride_h, tiler.stride_w)
    if any(size % stride for size in sizes):
        msg = (
            f"tile_size and stride of tiles must be multiples of {stride}, the stride of the deepest level: got "
            f"{tiler.tile_size_h} x {tiler.tile_size_w} and {tiler.stride_h} x {tiler.stride_w}."
        )
        raise ValueError(msg)
    features = min(sizes[:2]) // stride
    if not 0 <= 2 * tiler.remove_border_count < features:
        msg = (
            f"remove_border_count must leave something of {features} features, the width of a tile on the deepest "
            f"level: got {tiler.remove_border_count}."
        )
        raise ValueError(msg)


def settings_of(tiler: Tiler | None) -> Settings | None:
    """Return the arguments of a :class:`Tiler` as plain values, for a checkpoint."""
    if tiler is None:
        return None
    return {
        "tile_size": [tiler.tile_size_h, tiler.tile_size_w],
        "stride": [tiler.stride_h, tiler.stride_w],
        "remove_border_count": tiler.remove_border_count,
        "mode": ImageUpscaleMode(tiler.mode).value,
    }


def tiler_of(settings: Settings) -> Tiler:
    """Make the tiler of a checkpoint from what :func:`settings_of` returned."""
    return Tiler(**{**settings, "mode": ImageUpscaleMode(settings["mode"])})


def tiled(
    tiler: Tiler, network: Callable[[torch.Tensor], list[torch.Tensor]], images: torch.Tensor
) -> list[torch.Tensor]:
    """Run a network on the tiles of images and merge its features.

    Overlapping features are averaged. The result equals that of anomalib's ``Tiler`` except for padded images, whose
    padding anomalib keeps and stretches over the image. All operations can be exported.

    Args:
        tiler: anomalib's tiler.
        network: Computes one ``(N, C_l, H_l, W_l)`` tensor a level from images of shape ``(N, 3, H, W)``.
        images: Pre-processed images of shape ``(N, 3, H, W)``.

    Returns:
        One tensor a level, of the shapes that whole images give.

    Raises:
        ValueError: If an image is smaller than a tile, or the features of tiles leave gaps between them.
    """
    height, width = images.shape[-2:]
    tile_size, stride = (tiler.tile_size_h, tiler.tile_size_w), (tiler.stride_h, tiler.stride_w)
    if height < tile_size[0] or width < tile_size[1]:
        msg = f"A tile must not be larger than an image: got tiles of {tile_size} for images of {(height, width)}."
        raise ValueError(msg)
    enlarged = compute_new_image_size((height, width), tile_size, stride)
    starts = [range(0, enlarged[side] - tile_size[side] + 1, stride[side]) for side in (0, 1)]
    images = upscale_image(images, enlarged, tiler.mode)
    tiles = [
        images[..., top : top + tile_size[0], left : left + tile_size[1]] for top in starts[0] for left in starts[1]
    ]
    pyramid = network(torch.stack(tiles, dim=1).flatten(0, 1))
    kept = (height, width) if tiler.mode == ImageUpscaleMode.PADDING else enlarged
    merged_pyramid = []
    for features in pyramid:
        level_stride = tile_size[0] // features.shape[-2]
        if tuple(features.shape[-2:]) != (tile_size[0] // level_stride, tile_size[1] // level_stride):
            msg = (
                f"A tile of {tile_size} must have features without a gap to the next one, but has "
                f"{tuple(features.shape[-2:])}: take a backbone that pads its convolutions, such as a ResNet."
            )
            raise ValueError(msg)
        merged = features.reshape(-1, len(starts[0]), len(starts[1]), *features.shape[1:])
        for side in (1, 0):  # tiles of a row first, then rows
            offsets = [start // level_stride for start in starts[side]]
            merged = _average_overlaps(merged, side, offsets, enlarged[side] // level_stride, tiler.remove_border_count)
        rows, columns = (-(-size // level_stride) for size in kept)
        merged_pyramid.append(merged[..., :rows, :columns])
    return merged_pyramid


def _average_overlaps(tiles: torch.Tensor, side: int, offsets: Sequence[int], size: int, border: int) -> torch.Tensor:
    """Average overlapping tiles, of shape ``(..., tiles, C, H, W)``, along the height (0) or the width (1)."""
    dim = side - 2
    length = tiles.shape[dim] - 2 * border
    total = torch.zeros((), dtype=tiles.dtype, device=tiles.device)
    number = torch.zeros(size, dtype=tiles.dtype, device=tiles.device)
    for tile, offset in zip(tiles.unbind(-4), offsets, strict=True):
        start = offset + border
        before_and_after = (start, size - start - length)
        total = total + functional.pad(tile.narrow(dim, border, length), (0, 0) * (1 - side) + before_and_after)
        number = number + functional.pad(number.new_ones(length), before_and_after)
    return total / number.clamp_min(1).reshape((-1, 1) if side == 0 else (1, -1))
