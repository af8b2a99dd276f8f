"""Equations calibrated to the teachers: what is calibrated, how it is judged, what came out."""
