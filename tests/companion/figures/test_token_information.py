"""Figures of tokens' information: what is drawn is what was given."""

import numpy as np
import pytest
import torch
from drawn import named

from companion.figures import token_information as figures

GRID = (1, 3)


def test_curves_are_means_over_seeds_with_their_range(axes):
    found = {"teacher": torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "one-step field": torch.tensor([[5.0, 5.0]])}
    figures.curves(axes[0], found, figures.LOOKS, first=1)
    line = named(axes[0], "Transformer")
    assert line.get_xdata().tolist() == [1, 2] and line.get_ydata().tolist() == [2, 4]
    assert named(axes[0], "one-step field (one seed)").get_ydata().tolist() == [5, 5]
    (band,) = axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6) and len(axes[0].lines) == 2


def test_a_ceiling_is_drawn_where_it_is_near(axes):
    lines = {"teacher": torch.tensor([[0.5, 1.0]])}
    figures.content(axes[:2], {"itself": lines, "class": lines}, {"itself": 1.5, "class": 4.0})
    heights = [[line.get_ydata()[0] for line in panel.lines] for panel in axes[:2]]
    assert heights == [[0.5, 1.5], [0.5]]
    assert [text.get_text() for text in axes[0].texts] == ["H"] and not axes[1].texts


def test_edge_panels_count_layers_from_one(axes):
    figures.edge_panel(axes[0], {"attention": torch.tensor([[0.1, 0.2, 0.3]])}, "effects")
    assert named(axes[0], "attention").get_xdata().tolist() == [1, 2, 3]
    assert axes[0].get_title() == "effects" and axes[0].get_ylim() == (-0.4, 1.02)


def test_a_patchs_own_place_is_left_out_and_framed(axes):
    rows = {"attention": list(np.linspace(0, 1, 49)), "next state": [0.5] * 49}
    shown = {"place": 16, "layer": 4, "rows": rows}
    figures.patch_maps(axes[:2], shown, {"attention": "attention", "next state": "effect"})
    image = axes[0].images[0]
    assert image.get_array().mask[2, 2] and image.get_array().mask.sum() == 1
    assert image.get_array()[6, 6] == 1 and image.get_clim() == (0, pytest.approx(1))
    (frame,) = axes[0].patches
    assert frame.get_xy() == (1.5, 1.5) and axes[1].get_title() == "effect"
