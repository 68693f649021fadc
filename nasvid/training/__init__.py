"""Training the supernet: the loop, its plan, the optimizer, checkpoints."""
