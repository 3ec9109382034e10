"""What each change of the recipe does to the quality, measured alone and together."""

from .tables import table

__all__ = ["table"]
