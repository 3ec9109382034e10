"""anomalib's tiling: networks see the tiles of a picture, and the features are put together again."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from anomalib.data.utils.tiler import ImageUpscaleMode, Tiler, compute_new_image_size, upscale_image
from torch.nn import functional

Settings = dict[str, Any]


def check_tiler(tiler: Tiler, stride: int) -> None:
    """Refuse tiles that do not fall on the pixels of the features.

    Args:
        tiler: anomalib's tiler.
        stride: Stride of the deepest level, in pixels of the picture.

    Raises:
        ValueError: If tiles or their distance are no multiples of the stride, or no feature lies within their borders.
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
    """List the settings of a tiler as plain values, for a checkpoint.

    Args:
        tiler: anomalib's tiler, or none.

    Returns:
        Arguments of :class:`Tiler`; ``None`` if there is no tiler.

    Example:
        >>> settings_of(Tiler(tile_size=256, stride=128))
        {'tile_size': [256, 256], 'stride': [128, 128], 'remove_border_count': 0, 'mode': 'padding'}
    """
    if tiler is None:
        return None
    return {
        "tile_size": [tiler.tile_size_h, tiler.tile_size_w],
        "stride": [tiler.stride_h, tiler.stride_w],
        "remove_border_count": tiler.remove_border_count,
        "mode": ImageUpscaleMode(tiler.mode).value,
    }


def tiler_of(settings: Settings) -> Tiler:
    """Make the tiler of a checkpoint.

    Args:
        settings: What :func:`settings_of` returned.

    Returns:
        anomalib's tiler.

    Example:
        >>> tiler_of(settings_of(Tiler(tile_size=256, stride=128))).stride_h
        128
    """
    return Tiler(**{**settings, "mode": ImageUpscaleMode(settings["mode"])})


def tiled(
    tiler: Tiler, network: Callable[[torch.Tensor], list[torch.Tensor]], images: torch.Tensor
) -> list[torch.Tensor]:
    """Let a network see the tiles of pictures, and put its features together.

    Where tiles overlap, features are averaged. They are those of anomalib's ``Tiler``, but for pictures that had to be
    padded, whose features anomalib stretches over what was padded, and in operations that can be exported.

    Args:
        tiler: anomalib's tiler.
        network: What computes one ``(N, C_l, H_l, W_l)`` tensor a level of pictures of shape ``(N, 3, H, W)``.
        images: Pre-processed images of shape ``(N, 3, H, W)``.

    Returns:
        One tensor a level, as if the network had seen whole pictures.

    Raises:
        ValueError: If a picture is smaller than a tile.

    Example:
        >>> halved = lambda images: [images[..., ::2, ::2]]
        >>> images = torch.rand(2, 3, 96, 64)
        >>> torch.equal(tiled(Tiler(tile_size=64, stride=32), halved, images)[0], halved(images)[0])
        True
    """
    height, width = images.shape[-2:]
    tile_size, stride = (tiler.tile_size_h, tiler.tile_size_w), (tiler.stride_h, tiler.stride_w)
    if height < tile_size[0] or width < tile_size[1]:
        msg = f"A tile must not be larger than a picture: got tiles of {tile_size} for pictures of {(height, width)}."
        raise ValueError(msg)
    enlarged = compute_new_image_size((height, width), tile_size, stride)
    starts = [range(0, enlarged[side] - tile_size[side] + 1, stride[side]) for side in (0, 1)]
    images = upscale_image(images, enlarged, tiler.mode)
    tiles = [
        images[..., top : top + tile_size[0], left : left + tile_size[1]] for top in starts[0] for left in starts[1]
    ]
    pyramid = network(torch.stack(tiles, dim=1).flatten(0, 1))
    kept = (height, width) if tiler.mode == ImageUpscaleMode.PADDING else enlarged
    together = []
    for features in pyramid:
        level_stride = tile_size[0] // features.shape[-2]
        merged = features.reshape(-1, len(starts[0]), len(starts[1]), *features.shape[1:])
        for side in (1, 0):  # tiles of a row first, then rows
            offsets = [start // level_stride for start in starts[side]]
            merged = _merged(merged, side, offsets, enlarged[side] // level_stride, tiler.remove_border_count)
        rows, columns = (-(-size // level_stride) for size in kept)
        together.append(merged[..., :rows, :columns])
    return together


def _merged(tiles: torch.Tensor, side: int, offsets: Sequence[int], size: int, border: int) -> torch.Tensor:
    """Average overlapping tiles along one side; the tiles' dimension is the last but the channels and both sides."""
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
