"""Best losses, edges and gains read from small records whose answers are plain."""

import json
import math

import pytest
from scipy.stats import beta

from companion import studies
from companion.jobs import Run
from companion.stabilisers import map_results as results
from companion.stabilisers.training_map import PART, RATES


def record(loss, diverged=None, begun=2.0, rates=(1.0, 4.0, 16.0), rank=None):
    diverged = diverged or [[7 if value is None else None for value in row] for row in loss]
    return {
        "rates": list(rates),
        "loss": loss,
        "diverged": diverged,
        "states": {"rank": rank or [[0.1 * (n + 1) for n in range(len(row))] for row in loss]},
        "begun": [{"loss": begun, "rank": 0.5 + n, "gradients": [10.0 ** (n + 1), 1.0]} for n in range(len(loss))],
    }


ONE = record([[1.5, 0.5, None], [1.2, 0.9, 2.5]])


def test_best_losses_and_rates():
    assert results.best_losses(ONE) == [0.5, 0.9]
    assert results.best_rate(ONE) == 1
    assert results.best_losses(record([[None, None, None]], begun=3.0)) == [3.0]
    # The mean over seeds decides, and a diverged cell counts as it began.
    assert results.best_rate(record([[0.1, 0.6, 1.0], [None, 0.6, 1.0]])) == 1


def test_stable_rates_end_before_the_first_divergence():
    found = results.stable_rates(record([[1.0, None, 1.0], [1.0, 1.0, 1.0], [None, 1.0, 1.0]]))
    assert found == [1.0, 16.0, 0.5]


def test_edges_inside_the_grid():
    assert results.edge_is_inside(record([[1.0, None, None], [1.0, 1.0, None]]))
    assert not results.edge_is_inside(ONE)  # the second seed never diverged
    assert not results.edge_is_inside(record([[None, None], [1.0, None]], rates=(1.0, 4.0)))


def test_sensitivity_counts_no_loss_above_the_beginning():
    assert results.sensitivity(ONE) == pytest.approx([(1.0 + 0 + 1.5) / 3, (0.3 + 0 + 1.1) / 3])


@pytest.mark.parametrize(("hits", "trials"), [(0, 5), (2, 5), (5, 5), (3, 10)])
def test_shares_have_the_exact_interval(hits, trials):
    # Clopper and Pearson's own formula, by quantiles of beta distributions.
    low = beta.ppf(0.025, hits, trials - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, trials - hits) if hits < trials else 1.0
    assert results.share_of(hits, trials) == pytest.approx((hits / trials, low, high))


def test_divergence_is_of_one_rate():
    assert results.divergence(ONE, 2).share == 0.5 and results.divergence(ONE, 1).share == 0


def test_what_is_drawn_at_each_rate():
    losses, shares = results.by_rate(ONE)
    assert losses.tolist() == pytest.approx([1.35, 0.7, 2.0]) and shares.tolist() == [0, 0, 0.5]
    assert results.first_divergence(ONE, 2) == 7 and results.first_divergence(ONE, 1) is None
    assert results.at_rate(ONE, "loss", 2).seeds == (2.5,)


def test_states_at_the_best_rate_and_before():
    assert results.at_best(record([[1.0, 0.5], [1.0, None]], rank=[[0.1, 0.3], [0.2, None]]), "rank").seeds == (
        0.1,
        0.2,
    )
    assert results.at_best(ONE, "rank").mean == pytest.approx(0.2)
    assert results.at_start(ONE, "rank").seeds == (0.5, 1.5)
    assert results.gradient_share(ONE).seeds == pytest.approx((1.0, 2.0))


def test_a_counterexample_is_the_nearest_network_without():
    found = {
        "best": record([[0.50], [0.52], [0.54]], rates=(1.0, 4.0)),
        "near": record([[0.53], [0.51], [0.55]], rates=(1.0, 4.0)),
        "far": record([[0.70], [0.71], [0.75]], rates=(1.0, 4.0)),
    }
    near = results.counterexample(["near", "far", "unknown"], found, found)
    assert near.arm == "near" and near.difference.seeds == pytest.approx((0.03, -0.01, 0.01))
    assert near.difference.low < 0 < results.counterexample(["far"], found, found).difference.low
    assert results.counterexample(["best"], found, found).difference.seeds == (0, 0, 0)
    assert results.counterexample(["unknown"], found, found) is None
    assert results.lowest(["far", "near"], found) == "near"


def test_help_is_a_higher_edge_known_to_a_step_of_the_grid_a_lower_loss_and_less_sensitivity():
    plain = record([[0.5, 1.0, 1.0], [0.6, 1.0, 1.0], [0.7, 1.0, 1.0]])
    edge = record([[0.5, 1.0, None], [0.6, 1.0, None], [0.7, 1.0, None]])
    found = results.helped(plain, edge)
    assert found.octaves.mean == 2 and found.octaves.interval == (0, 4) and found.nats.mean == 0
    assert found.sensitivity.mean == pytest.approx(1 / 3)  # the diverged cell counts as it began: 2 in place of 1
    worse = record([[0.6, 1.0, 1.0], [0.71, 1.0, 1.0], [0.8, 1.0, 1.0]])
    assert results.helped(plain, worse).nats.seeds == pytest.approx((0.1, 0.11, 0.1))
    assert results.helped(worse, plain).nats.mean < 0 and results.helped(plain, plain).octaves.mean == 0


def test_a_rate_works_where_something_is_learnt():
    found = record([[1.5, 0.5, 1.9], [1.2, None, 0.9], [1.9, 1.9, None]])
    assert results.working_rate(found, 1.0) == [4.0, 16.0, None]


def test_what_is_committed_is_not_trained_again(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "root", lambda: tmp_path)
    assert results.committed("book") == set()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / results.RECORDS).touch()
    name = f"{PART}-image-plain-pre-6"
    monkeypatch.setattr(results, "records", lambda: {name: record([[1.0, 2.0, 3.0]] * 5), "short": ONE})
    assert results.committed("book") == {name} and results.committed("smoke") == {"short"}
    run = Run("book", tmp_path)
    jobs = [[job.name for job in studies.trained_jobs(run, f"{PART}-image-plain-p*-6", m)] for m in (False, True)]
    assert jobs[0] == [name, f"{PART}-image-plain-post-6"] and jobs[1] == jobs[0][1:]


def test_records_are_gathered_by_name(tmp_path):
    (tmp_path / f"{PART}-image-plain-pre-6.json").write_text(json.dumps({"record": ONE}))
    (tmp_path / "dynamics-x.json").write_text("{}")
    (tmp_path / f"{PART}-diffusion-x.json").write_text(json.dumps({"record": 3}))
    (tmp_path / f"{PART}-equation-image.json").write_text(json.dumps({"record": 4}))
    found = results.gathered(tmp_path)
    assert found == {
        "map": {f"{PART}-image-plain-pre-6": ONE},
        "diffusion": {f"{PART}-diffusion-x": 3},
        "equation": {f"{PART}-equation-image": 4},
    }
    assert [arm.name for arm in results.known(found["map"])] == [f"{PART}-image-plain-pre-6"]
    assert math.isclose(RATES[1] / RATES[0], 4)
