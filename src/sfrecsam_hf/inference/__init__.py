"""Checkpoints applied to images."""
