"""What each change of the recipe does to the quality, measured alone and together."""
