"""The feature cache: images and teacher features that stay the same from epoch to epoch."""
