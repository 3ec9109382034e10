"""Datamodules that need no download."""

from anomalib_stfpm.registry import register_datamodule

from .texture_demo import TextureDemo

__all__ = ["TextureDemo"]

register_datamodule(TextureDemo)
