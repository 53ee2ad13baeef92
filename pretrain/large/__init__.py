"""Backbones that need much memory: its plan before a run."""
