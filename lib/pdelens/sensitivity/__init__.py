"""How a field reacts to a change of its state: Jacobians, spectra, local errors."""
