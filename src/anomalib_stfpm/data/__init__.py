"""Datamodules: a demo category that needs no download, and images of your own in MVTec AD's layout."""

from anomalib_stfpm.data import image_files
from anomalib_stfpm.data.mvtec_layout import MVTecLayout
from anomalib_stfpm.data.texture_demo import TextureDemo
from anomalib_stfpm.registry import register_datamodule, use_image_rules

__all__ = ["MVTecLayout", "TextureDemo"]

register_datamodule(MVTecLayout)
register_datamodule(TextureDemo)
use_image_rules(image_files)
