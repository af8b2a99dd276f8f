import numpy as np
import pytest

from companion.figures import cosine as figures
from companion.theory import cosine
from pdelens.agreement.report import Report


def test_a_law_is_drawn_to_the_end_of_its_range(axes):
    samples = [np.array([0.9, 1.0]), np.array([0.5, 0.7])]
    figures.law(axes, "independent", np.array([0.1, 1.0]), {16: samples, 49: samples})
    line = next(line for line in axes.lines if line.get_label() == "law")
    assert line.get_xdata()[-1] == pytest.approx(cosine.range_of_law(49))
    assert line.get_ydata()[-1] == pytest.approx(cosine.independent_law(cosine.range_of_law(49)))
    assert axes.get_legend_handles_labels()[1].count("16 tokens") == 1


def test_averaged_heads_have_their_law_in_their_colour(axes):
    figures.averaged_heads(axes, (1, 4), {0.5: [np.array([0.8, 0.8]), np.array([0.9, 0.9])]})
    lines = [line for line in axes.lines if line.get_linewidth() == 1]
    assert lines[0].get_ydata() == pytest.approx([cosine.independent_law(0.5), cosine.independent_law(0.5, 4)])


def test_chance_is_two_deviations_of_the_theorem(axes):
    samples = {(16, 0.1): np.linspace(-0.1, 0.1, 9), (49, 0.1): np.linspace(-0.1, 0.1, 9)}
    figures.unrelated(axes, samples, chance=True)
    bands = [band.get_paths()[0].vertices[:, 1].max() for band in axes.collections]
    assert bands == pytest.approx([2 * cosine.chance_spread(n) for n in (16, 49)])
    figures.unrelated(axes, samples, chance=False)
    assert len(axes.collections) == 2


def test_every_map_has_its_own_bar(axes):
    figures.scaled_map(axes, np.array([[0.2, 0.8], [0.5, 0.5]]), "a head")
    assert axes.images[0].get_clim() == (0, 0.8) and len(axes.figure.axes) == 2


def test_nulls_are_means_over_reports(axes):
    def report(value):
        return Report(
            {}, np.zeros((1, 1)), {"uniform": Report({"cosine": np.full((2, 3, 4), value)}, np.zeros((2, 3)))}
        )

    figures.nulls(axes, [report(0.2), report(0.4)], ["uniform"])
    line = next(line for line in axes.lines if line.get_label() == "uniform")
    assert line.get_ydata() == pytest.approx([0.3, 0.3])


def test_heads_lie_where_they_were_measured_and_the_laws_beside_them(axes):
    heads = {("text", "trained"): (np.array([0.5, 2.0]), np.array([0.8, 0.3]))}
    figures.heads_and_law(axes, heads)
    assert np.allclose(axes.collections[0].get_offsets(), [[0.5, 0.8], [2.0, 0.3]])
    assert axes.lines[0].get_ydata()[0] == pytest.approx(cosine.uniform_law(0.08))
    figures.square_law(axes, heads)
    assert np.allclose(axes.collections[1].get_offsets(), [[0.5, 0.8], [2.0, 0.3]])


def test_the_exchange_rate_and_what_it_predicts(axes):
    figures.exchange_rate(axes, {("image", 1): np.array([0.9]), ("text", "trained"): np.array([0.5, 0.6])})
    rate = next(line for line in axes.lines if line.get_label() == "raw cosine 0.98")
    assert rate.get_ydata()[0] == pytest.approx(0.98)
    assert [len(line.get_xdata()) for line in axes.lines[4:]] == [1, 2]
    figures.predicted(axes, {("image", "0.1"): (np.array([0.7]), np.array([0.8]))})
    assert np.allclose(axes.collections[0].get_offsets(), [[0.7, 0.8]])
    assert axes.get_legend_handles_labels()[1][-1] == "image, sd 0.1"
