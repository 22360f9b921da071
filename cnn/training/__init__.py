"""Training: the loop, gradients, checkpoints, metrics and progress."""
