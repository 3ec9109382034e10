"""Tests of what runs on a Ray cluster, without one."""
