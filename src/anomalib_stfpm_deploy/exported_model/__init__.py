"""Changing an exported model: its thresholds, and what servers need."""
