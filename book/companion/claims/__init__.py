"""The claims and the rules of their verdicts."""
