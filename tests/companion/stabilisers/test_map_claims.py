"""Comparisons of networks, on a small map whose answers are plain."""

import math

import pytest

from companion.seeds import over_seeds
from companion.stabilisers import map_claims as claims
from companion.stabilisers.map_results import lead


def record(losses, rates=(1.0, 4.0, 16.0), begun=2.3):
    """A network whose seeds have these best losses, at the first rate; the last rate diverged."""
    return {
        "rates": list(rates),
        "loss": [[loss, 2.0, None] for loss in losses],
        "diverged": [[None, None, 7] for _ in losses],
        "begun": [{"loss": begun} for _ in losses],
    }


@pytest.fixture
def found():
    """A whole depth of pictures in which every network is bad but four."""
    losses = dict.fromkeys(claims.NETWORKS, (1.55, 1.6, 1.65))
    losses[claims.STANDARD] = (0.80, 0.82, 0.84)
    losses["plain", "none"] = (0.70, 0.71, 0.72)
    losses["skipless", "none"] = (0.90, 0.95, 0.91)
    losses["none", "post"] = (0.89, 0.96, 1.1)
    return {claims.name_of("image", 6, network): record(own) for network, own in losses.items()}


def test_networks_without_a_stabiliser(found):
    assert len(claims.NETWORKS) == 24
    assert sum(map(claims.LACKS["c7"], claims.NETWORKS)) == sum(map(claims.ODD["c7"], claims.NETWORKS)) == 12
    assert sum(map(claims.LACKS["c8"], claims.NETWORKS)) == sum(map(claims.ODD["c8"], claims.NETWORKS)) == 4
    for claim, gone in claims.GONE.items():
        assert claims.LACKS[claim](gone) and not claims.LACKS[claim](claims.STANDARD)
        # Nothing else is changed.
        assert sum(a != b for a, b in zip(gone, claims.STANDARD, strict=True)) == 1
    nearest = claims.without("c7", "image", 6, found)
    assert nearest.arm == claims.name_of("image", 6, ("skipless", "none"))
    assert nearest.difference.seeds == pytest.approx((0.2, 0.24, 0.19))
    assert claims.without("c8", "image", 6, found).difference.seeds == (0, 0, 0)
    assert claims.without("c8", "image", 6, found, claims.ODD).difference.mean == pytest.approx(1.6 - 0.71)
    assert claims.best_of_all("image", 6, found).endswith("plain-none-6")
    assert claims.best_without_either("image", 6, found).endswith("skipless-none-6")
    assert claims.best_with_a_norm("image", 6, found).endswith("plain-pre-6")
    bare, behind = (claims.name_of("image", 6, ("plain", norm)) for norm in ("none", "pre"))
    assert lead(found[bare], found[behind]).seeds == pytest.approx((0.1, 0.11, 0.12))
    assert lead(found[behind], found[bare]).seeds == pytest.approx((-0.1, -0.11, -0.12))


def test_help_takes_one_thing_away(found):
    assert claims.help_of("c8", "image", 6, found).nats.mean == pytest.approx(0.71 - 0.82)
    assert claims.help_of("c7", "image", 6, found).nats.mean == pytest.approx(1.6 - 0.82)
    assert claims.help_of("null", "image", 6, found).nats.mean == pytest.approx(1.6 - 0.82)


def test_a_switch_beside_is_compared_with_the_same_network_without_it():
    network = ("plain", "none")
    usual, switched, other = record((0.80, 0.82)), record((0.70, 0.75)), record((9.0, 9.0))
    switched["diverged"] = [[None, None, None], [None, None, 7]]
    found = {claims.Arm("image", *network, depth).name: one for depth, one in ((12, usual), (6, other))}
    found[claims.Arm("image", *network, 12, "clipped").name] = switched
    gains = claims.beside(network, "clipped", found)
    assert gains.nats.seeds == pytest.approx((0.10, 0.07)) and gains.octaves.seeds == (2, 0)


def test_a_working_rate_is_gained_over_seeds_that_have_both(found):
    better = record((0.80, 0.82, 0.84))
    better["loss"][1][1] = 0.9  # the second seed works four times further
    found[claims.name_of("image", 6, claims.STANDARD)] = better
    gain = claims.working_gain("c8", "image", 6, found)
    assert gain.seeds == (0, 2, 0)
    low, high = over_seeds(gain.seeds).interval
    assert gain.interval == pytest.approx((low - 2, high + 2))
    assert claims.working_gain("c7", "image", 6, found).seeds == ()  # without a connection nothing works


def test_groups_by_chance_are_called_necessary_where_they_lack_the_best(found):
    # 4 of 24 lack the one best network with a probability of 20 / 24, and then lie above it, interval and all.
    assert claims.by_chance("c8", found) == pytest.approx(20 / 24, abs=0.03)
    assert claims.by_chance("c7", found) == pytest.approx(0.5, abs=0.04)


def test_a_depth_counts_when_every_network_is_there(found):
    assert claims.depths("image", found) == [6] and claims.depths("text", found) == []
    assert claims.share_there(found) == pytest.approx(24 / 120)
    found.popitem()
    assert claims.depths("image", found) == []


def test_the_worst_depth_is_where_the_interval_begins_lowest():
    wide, narrow = over_seeds([0.1, 0.9]), over_seeds([0.30, 0.31])
    found = claims.worst({6: narrow, 12: wide})
    assert found.depth == 12 and found.number == wide


def test_what_counts_as_learnt(found):
    assert claims.learnt("image", 6, found) == pytest.approx((math.log(10) + 0.71) / 2)


def test_what_the_tables_and_figures_show(found):
    shown = claims.shown("image", 6, found)
    assert shown["standard"].endswith("plain-pre-6") and shown["best"] == shown["no norm"]
    assert shown["no connection"] == shown["neither"] != shown["best"]
    stable = claims.rates_by_depth("image", "plain", "stable", found)
    assert stable["pre"] == {6: (pytest.approx(4.0), 4.0, 4.0)} and len(stable) == 6
    working = claims.rates_by_depth("image", "plain", "working", found)
    assert working["none"] == {6: (1.0, 1.0, 1.0)} and set(working) == {"pre", "none"}


def test_how_large_a_map_is_and_how_long_it_takes(found):
    # Five seeds at seven rates of 132 networks; with heat 16 of four rates.
    assert claims.cells("book") == 5 * (7 * 132 + 4 * 16)
    timed = {name: one | {"seconds": 72.0} for name, one in found.items()}
    # Twenty-four networks of six layers in 72 s each; the others cost more by layers, cells and steps.

    def size(scale, arm):
        plan = arm.plan(scale)
        return plan.switches.shape.layers * len(plan.cells) * plan.steps

    mine = sum(size("book", arm) for arm in claims.arms("book") if arm.name in found)
    for scale in ("book", "full"):
        whole = sum(size(scale, arm) for arm in claims.arms(scale))
        assert claims.hours(scale, timed) == pytest.approx(24 * 72 / 3600 * whole / mine, rel=0.05)
