"""What the theory pages check by computing."""
