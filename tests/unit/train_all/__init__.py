"""Tests of `train-all`."""
