"""Tiling equals anomalib's, except for the padding, which is cut off."""

from typing import Any

import pytest
import torch
from anomalib.data.utils.tiler import ImageUpscaleMode, Tiler

from anomalib_stfpm import StfpmModel
from anomalib_stfpm.components.tiling import settings_of, tiled, tiler_of


def network(images: torch.Tensor) -> list[torch.Tensor]:
    """Features of stride 4 and 8 that depend on where in a tile they are."""
    pooled = torch.nn.functional.avg_pool2d(images, 4)
    return [pooled * torch.linspace(0.5, 1.5, pooled.shape[-1]), torch.nn.functional.max_pool2d(images, 8)]


@pytest.mark.parametrize(
    ("tile_size", "stride", "border", "size"),
    [
        ((64, 64), (64, 64), 0, (128, 192)),
        ((64, 32), (32, 16), 0, (128, 192)),
        ((64, 64), (32, 32), 1, (128, 128)),
        ((64, 64), (32, 32), 2, (96, 160)),
        ((64, 64), (64, 64), 0, (64, 64)),
    ],
    ids=["side by side", "overlapping and not square", "a border taken off", "more of it", "one tile"],
)
def test_features_are_those_of_anomalibs_tiler(
    tile_size: tuple[int, int], stride: tuple[int, int], border: int, size: tuple[int, int]
) -> None:
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    tiler = Tiler(tile_size, stride, border)
    expected = [tiler.untile(level) for level in network(tiler.tile(images))]
    torch.testing.assert_close(tiled(tiler, network, images), expected)


def test_features_of_the_padding_are_cut_off() -> None:
    images = torch.rand(1, 3, 130, 100)
    levels = tiled(Tiler(64, 32), lambda seen: [seen[..., ::4, ::4]], images)
    assert torch.equal(levels[0], images[..., ::4, ::4])


def test_interpolated_images_keep_all_features() -> None:
    levels = tiled(Tiler(64, 32, mode=ImageUpscaleMode.INTERPOLATION), network, torch.rand(1, 3, 130, 100))
    assert [level.shape for level in levels] == [(1, 3, 40, 32), (1, 3, 20, 16)]


@pytest.mark.parametrize(
    "tiler", [Tiler(64, 32), Tiler((64, 32), (16, 32), remove_border_count=1, mode=ImageUpscaleMode.INTERPOLATION)]
)
def test_saved_settings_make_the_same_tiler(tiler: Tiler) -> None:
    assert vars(tiler_of(settings_of(tiler) or {})) == vars(tiler)


def test_a_tile_gives_the_same_map_alone_and_beside_others() -> None:
    torch.manual_seed(0)
    model = StfpmModel("resnet18", map_size=(32, 32)).eval()
    images = torch.rand(1, 3, 128, 128)
    model.tiler = Tiler(64, 64)
    with torch.no_grad():
        whole = model.anomaly_map.product(model.teacher_pyramid(images), model.student_pyramid(images), (128, 128))
        model.tiler = None
        corner = images[..., :64, 64:]
        model.anomaly_map.map_size = (16, 16)
        alone = model.anomaly_map.product(model.teacher_pyramid(corner), model.student_pyramid(corner), (64, 64))
    # Beside another tile, bilinear resizing sees two features of it, of the deepest level.
    torch.testing.assert_close(whole[..., :12, 20:], alone[..., :12, 4:], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"tile_size": 100, "stride": 50}, "must be multiples of 16, the stride of the deepest level: got 100 x 100"),
        (
            {"tile_size": 64, "stride": 40},
            "multiples of 16, the stride of the deepest level: got 64 x 64 and 40",
        ),
        ({"tile_size": 64, "stride": 64, "remove_border_count": 2}, "must leave something of 4 features"),
        ({"tile_size": 64, "stride": 64, "remove_border_count": -1}, "must leave something of 4 features"),
    ],
)
def test_tiles_that_do_not_align_with_the_features_are_rejected(arguments: dict[str, Any], sentence: str) -> None:
    model = StfpmModel("resnet18")
    with pytest.raises(ValueError, match=sentence):
        model.tiler = Tiler(**arguments)
    assert model.tiler is None


def test_a_tile_larger_than_the_image_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"A tile must not be larger than an image: got tiles of \(64, 64\)"):
        tiled(Tiler(64, 64), network, torch.rand(1, 3, 64, 48))


def test_a_backbone_whose_features_do_not_fill_a_tile_is_rejected() -> None:
    def without_padding(images: torch.Tensor) -> list[torch.Tensor]:
        return [torch.nn.functional.avg_pool2d(images, 4)[..., :-1, :-1]]

    with pytest.raises(ValueError, match=r"A tile of \(64, 64\) must have features without a gap to the next one"):
        tiled(Tiler(64, 64), without_padding, torch.rand(1, 3, 128, 128))
