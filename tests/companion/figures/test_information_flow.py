"""Figures of information flow: what is drawn is what was given."""

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from companion.figures import information_flow as figures

RANDOM = np.random.default_rng(0)


GRID = (1, 6)


def test_strips_share_one_scale_and_name_tokens_once(axes):
    strips = {name: RANDOM.normal(size=(4, 7)) for name in figures.STRIPS}
    agreement = {name: np.array([0.5, 0.25]) for name in figures.STRIPS}
    figures.strip_row(axes, strips, agreement, 1, 2.0, ["a", "b", "c", "d"])
    for panel, values in zip(axes, strips.values(), strict=True):
        (image,) = panel.images
        np.testing.assert_array_equal(image.get_array(), values)
        assert image.get_clim() == (-2, 2)
    assert [text.get_text() for text in axes[0].get_yticklabels()] == ["a", "b", "c", "d"]
    assert axes[1].get_yticklabels() == [] and axes[0].get_title() == "Transformer"
    assert axes[1].get_title() == "equation\n0.25"


def test_profiles_are_means_over_seeds_with_their_range(axes):
    curves = {"teacher": torch.tensor([[1.0, 2.0], [3.0, 6.0]]), "one-step field": torch.tensor([[5.0, 5.0]])}
    figures.profile(axes[0], curves, logarithmic=True)
    lines = {line.get_label(): line.get_ydata().tolist() for line in axes[0].lines}
    assert lines == {"Transformer": [2, 4], "one-step field": [5, 5]}
    (band,) = axes[0].collections
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (1, 6) and axes[0].get_yscale() == "log"


def influenced(names, shape):
    return {
        name: SimpleNamespace(shares=torch.from_numpy(RANDOM.uniform(0, 0.1, shape)), cosine=0.5, rank=0.25)
        for name in names
    }


def test_a_patchs_influence_is_in_per_cent_on_one_scale_and_its_patch_is_framed(axes):
    found = influenced(figures.INFLUENCE, (3, 49))
    figures.influence_row(axes[:4], found, 1, 16)
    top = np.quantile(100 * found["teacher"].shares[1], 0.98)
    for panel, name in zip(axes, figures.INFLUENCE, strict=False):
        (image,), (frame,) = panel.images, panel.patches
        np.testing.assert_allclose(image.get_array(), 100 * found[name].shares[1].numpy().reshape(7, 7))
        assert image.get_clim() == (0, pytest.approx(top))
        assert frame.get_xy() == (2 - 0.5, 2 - 0.5), "16 is in row 2, column 2"
    assert axes[1].get_title() == "equation\n(0.50, 0.25)" and axes[0].get_title() == "Transformer"


def test_words_are_rows_and_a_target_itself_is_left_out(axes):
    found, names = influenced(figures.INFLUENCE, (2, 5)), ["the", "plot", "moves"]
    figures.word_influence(axes[:4], found, np.array([2, 0]), names)
    image = axes[1].images[0].get_array()
    assert image.shape == (3, 2) and image.mask.sum() == 2 and image.mask[2, 0] and image.mask[0, 1]
    assert image[1, 1] == pytest.approx(100 * float(found["three laws"].shares[1, 1]))
    assert [text.get_text() for text in axes[0].get_xticklabels()] == ["moves", "the"]
    assert [text.get_text() for text in axes[0].get_yticklabels()] == names


def test_a_pictures_target_is_framed_in_pixels(axes):
    pixels = RANDOM.uniform(0, 255, (28, 28))
    figures.picture(axes[0], pixels, 7, "one", 8)
    (frame,) = axes[0].patches
    assert frame.get_xy() == (3.5, 3.5) and frame.get_width() == 4
    np.testing.assert_array_equal(axes[0].images[0].get_array(), pixels)


def test_paths_run_from_hollow_to_full_dots(axes):
    paths = RANDOM.normal(size=(5, 3, 2))
    figures.plane_paths(axes[0], paths, "paths")
    for token, line in enumerate(axes[0].lines):
        np.testing.assert_array_equal(line.get_xydata(), paths[:, token])
    start, end = axes[0].collections
    np.testing.assert_array_equal(start.get_offsets(), paths[0])
    np.testing.assert_array_equal(end.get_offsets(), paths[-1])
    assert (start.get_facecolors() == 1).all() and len(set(figures.token_colours(3))) == 3


def test_a_strip_figure_is_as_wide_as_the_text_and_has_one_scale():
    figure, axes = figures.strip_figure(2, 3, 1.5, first=2.0)
    axes[0, 0].imshow(np.eye(3))
    figures.strip_scale(figure, axes, 3.0, "projection")
    assert figure.get_size_inches().tolist() == [8.2, 3] and len(figure.axes) == 7
    assert figure.axes[-1].get_xlabel() == "projection"
    plt.close(figure)
