"""The information bottleneck: what the states of a depth, or of a moment of training, tell of input and label."""
