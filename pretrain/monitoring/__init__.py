"""What is watched during a training: metrics and their warnings, a k-NN monitor, predictors fitted anew."""
