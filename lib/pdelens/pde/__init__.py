"""The equation: terms, constraints, integrators, stability, and its calibration to flows."""
