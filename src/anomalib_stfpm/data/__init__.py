"""Datamodules: a demo category that needs no download, and pictures of your own in MVTec AD's layout."""

from anomalib_stfpm.registry import register_datamodule

from .mvtec_layout import MVTecLayout
from .texture_demo import TextureDemo

__all__ = ["MVTecLayout", "TextureDemo"]

register_datamodule(MVTecLayout)
register_datamodule(TextureDemo)
