"""Resizing as a product with two matrices: the same in every runtime that an exported model meets."""

from typing import Any

import torch
from torch.nn.functional import interpolate


def resize_antialiased(images: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize as torchvision does, bilinearly and with antialiasing, in operations that every runtime has.

    OpenVINO leaves the antialiasing of ONNX's ``Resize`` out without a word.

    Args:
        images: Images of shape ``(N, 3, H, W)``, where height and width may be symbols of an export.
        size: Height and width in pixels.

    Returns:
        Images of shape ``(N, 3, *size)``.

    Example:
        >>> from torchvision.transforms.v2 import Resize
        >>> images = torch.rand(1, 3, 50, 70)
        >>> expected = Resize((32, 32), antialias=True)(images)
        >>> torch.allclose(resize_antialiased(images, (32, 32)), expected, atol=1e-6)
        True
    """
    lengths = images.shape[-2:]
    if all(isinstance(length, int) for length in lengths) and tuple(lengths) == tuple(size):
        return images
    rows, columns = (_triangles(*pair, images) for pair in zip(lengths, size, strict=True))
    return rows @ images @ columns.T


def enlarge(maps: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Resize maps bilinearly.

    An exported graph does it by two small products: OpenVINO takes twenty times as long to interpolate a map of one
    channel.

    Args:
        maps: Maps of shape ``(N, 1, h, w)``.
        size: Height and width in pixels.

    Returns:
        Maps of shape ``(N, 1, *size)``.

    Example:
        >>> enlarge(torch.tensor([[[[0.0, 4.0]]]]), (1, 4)).flatten()
        tensor([0., 1., 3., 4.])
    """
    height, width = size
    known = all(isinstance(length, int) for length in (*maps.shape[-2:], height, width))
    if torch.compiler.is_compiling() and known and maps.shape[-2] <= height and maps.shape[-1] <= width:
        return resize_antialiased(maps, (height, width))  # with no fewer pixels there is nothing to antialias
    return interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)


def _triangles(length: int, resized: int, like: torch.Tensor) -> torch.Tensor:
    """Weight of every input in every output, of shape ``(resized, length)``.

    It falls linearly with the distance of their centres, to 0 at the spacing of the inputs or of the outputs, whichever
    is wider. Whole numbers until the last step: an index of a large image has no exact value in 16 bits.
    """
    inputs = torch.arange(length, device=like.device)
    outputs = torch.arange(resized, device=like.device).unsqueeze(1)
    distance = ((2 * inputs + 1) * resized - (2 * outputs + 1) * length).abs()
    reach: Any = 2 * torch.sym_max(length, resized)
    weights: torch.Tensor = (reach - distance).clamp_min(0).to(like.dtype)
    return weights / weights.sum(dim=1, keepdim=True)
