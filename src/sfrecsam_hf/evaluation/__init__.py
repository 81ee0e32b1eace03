"""Metrics, and a checkpoint measured."""
