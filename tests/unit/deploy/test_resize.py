"""Without torch, pictures are resized as torchvision resizes them in training."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import Resize

from anomalib_stfpm_deploy.resize import resize_antialiased

SIZES = [(64, 96), (200, 150), (97, 331), (3, 5), (1024, 64), (64, 700)]


@pytest.mark.parametrize("size", SIZES)
def test_it_is_torchvisions_resize(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    pictures = torch.from_numpy(picture).permute(2, 0, 1).unsqueeze(0).float() / 255
    expected = Resize((64, 96), antialias=True)(pictures)
    actual = resize_antialiased(picture, (64, 96))
    np.testing.assert_allclose(actual, expected, rtol=0, atol=5e-6)  # torch computes the weights in 32 bits
    assert actual.flags["C_CONTIGUOUS"]
