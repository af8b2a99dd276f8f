"""Axes to draw on: one, or as many rows and columns as a file's `GRID` says."""

import matplotlib.pyplot as plt
import pytest


@pytest.fixture
def axes(request):
    figure, axes = plt.subplots(*getattr(request.module, "GRID", (1, 1)))
    yield axes
    plt.close(figure)
