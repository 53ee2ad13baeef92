"""Foundations shared by all parts: backbones, checkpoints, data sets, configuration, processes, run folders."""
