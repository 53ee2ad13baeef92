"""What every part shares: backbones, checkpoints, data sets, configuration, processes, run folders."""
