import math

import pytest
import torch

from pdelens.information import critics, neural
from pdelens.information import cross_fit as training
from pdelens.information.gaussian import gaussian
from pdelens.information.ksg import ksg

BOUNDS = [neural.info_nce, neural.nwj, neural.mine]
QUICK = {"seeds": 3, "steps": 250, "batch": 128}


def correlated(samples, columns=1, rho=0.8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x, noise = torch.randn(2, samples, columns, generator=generator, dtype=torch.float64)
    return x, rho * x + (1 - rho**2) ** 0.5 * noise


def two_classes(samples, columns=3, shift=1.0, seed=0):
    """Two Gaussian classes `2 shift` apart along the first column, and their information by quadrature."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (samples,), generator=generator)
    x = torch.randn(samples, columns, generator=generator, dtype=torch.float64)
    x[:, 0] += shift * (2 * labels - 1)
    grid = torch.linspace(-30, 30, 100001, dtype=torch.float64)
    density = sum((-((grid - s * shift) ** 2) / 2).exp() for s in (1, -1)) / (2 * math.sqrt(2 * math.pi))
    entropy = -float(torch.trapezoid(torch.special.xlogy(density, density), grid))
    return x, labels, entropy - 0.5 * math.log(2 * math.pi * math.e)


def test_bounds_of_a_known_score_matrix():
    """With the exact log-ratio of three equally likely, distinguishable pairs every bound is ln 3."""
    apart = torch.full((1, 3, 3), -1e9, dtype=torch.float64)
    apart.diagonal(dim1=1, dim2=2).fill_(0.0)
    for bound, shift in ((critics.info_nce, 0.0), (critics.donsker_varadhan, 0.7), (critics.nwj, math.log(3))):
        assert float(bound(apart + shift)) == pytest.approx(math.log(3), abs=1e-12)
        assert float(bound(torch.zeros(1, 3, 3))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bound", [critics.info_nce, critics.nwj, critics.donsker_varadhan])
@pytest.mark.parametrize("spread", [0.1, 1.0, 5.0])
def test_no_scores_pass_the_ceiling(bound, spread):
    scores = spread * torch.randn(50, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores += 3 * spread * torch.eye(20)
    assert float(bound(scores).max()) <= math.log(20)
    assert math.log(20) == pytest.approx(neural.ceiling(100), abs=1e-12)


def test_moving_average_has_the_smoothed_gradient():
    """The gradient of the others' mean is divided by the average over steps, not by this batch's mean."""
    first, second = torch.zeros(1, 4, 4), torch.full((1, 4, 4), 2.0, requires_grad=True)
    objective = critics.MovingAverage(0.9)
    objective(first)
    objective(second).sum().backward()
    average = 0.9 * 1.0 + 0.1 * math.exp(2)
    off_diagonal = -math.exp(2) / average / 16
    assert second.grad is not None
    assert float(second.grad[0, 0, 1]) == pytest.approx(off_diagonal, rel=1e-5)
    assert float(second.grad[0, 0, 0]) == pytest.approx(0.25 + off_diagonal, rel=1e-5)


def test_parts_never_meet_and_are_all_read():
    cut = training.parts(103, 5, 21, 16, torch.Generator().manual_seed(0))
    for train, validation, test in zip(*cut, strict=True):
        assert sorted(torch.cat([train, validation, test]).tolist()) == list(range(103))
    assert set(cut.test.flatten().tolist()) == set(range(103))


@pytest.mark.parametrize("critic", ["separable", "joint"])
def test_members_do_not_interact(critic):
    """A member's scores depend on its own parameters and samples alone, and every first critic scores 0."""
    kind = critics.Separable if critic == "separable" else critics.Joint
    generator = torch.Generator().manual_seed(0)
    model = kind(3, 2, 4, generator)
    x, y = torch.randn(3, 5, 2, generator=generator), torch.randn(3, 5, 4, generator=generator)
    assert model(x, y).abs().max() == 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=generator)
    before = model(x, y)
    model(x, y)[1].square().sum().backward()
    assert all(p.grad is not None and p.grad[[0, 2]].abs().max() == 0 for p in model.parameters())
    x[1] += 1
    after = model(x, y)
    assert torch.equal(before[[0, 2]], after[[0, 2]])
    assert not torch.allclose(before[1], after[1])


@pytest.mark.parametrize("bound", BOUNDS)
def test_correlated_gaussians(bound):
    """They come from below: at 1,000 samples and 300 steps within 0.06 nats of what these samples hold."""
    x, y = correlated(1000)
    exact = gaussian(x, y)
    assert exact - 0.06 < bound(x, y, steps=300, batch=128) < exact


def test_joint_critic():
    x, y = correlated(400)
    assert neural.info_nce(x, y, critic="joint", seeds=2, steps=80, batch=32) == pytest.approx(gaussian(x, y), abs=0.1)


@pytest.mark.parametrize("bound", BOUNDS)
def test_memorised_noise_is_not_information(bound, monkeypatch):
    """Critics of 20 + 20 unrelated columns learn their 325 training pairs by heart and still report nothing."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 500, 20, generator=generator)
    assert bound(x, y, **QUICK) == pytest.approx(0, abs=0.02)
    # Read on what they were fitted to, the same critics claim nats.
    monkeypatch.setattr(neural, "parts", lambda *arguments: training.Parts(*[torch.arange(325).repeat(3, 1)] * 3))
    assert bound(x, y, **QUICK) > 1


@pytest.mark.parametrize("bound", BOUNDS)
def test_never_above_the_ceiling_and_close_to_it(bound):
    """A nearly deterministic pair of 5 + 5 columns carries 23 nats."""
    x, y = correlated(400, 5, rho=1 - 1e-4)
    batch = 32 if bound is neural.info_nce else None
    settings = QUICK | ({"batch": 32} if batch else {})
    top = neural.ceiling(400, batch=batch)
    assert 0.5 * top < bound(x, y, **settings) <= top


def test_one_seed_one_value_and_no_global_state():
    x, y = correlated(200)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    values = [neural.nwj(x, y, seeds=2, steps=40, seed=seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_scale_and_units_do_not_matter():
    x, y = correlated(300)
    plain = neural.info_nce(x, y, seeds=2, steps=60)
    assert neural.info_nce(1e3 * x + 50, -0.01 * y, seeds=2, steps=60) == pytest.approx(plain, abs=0.02)


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_probe_reaches_two_classes_from_below(probe):
    x, labels, exact = two_classes(3000)
    found = neural.probe_bound(x, labels, probe=probe, steps=400)
    assert exact - 0.03 < found < exact + 0.01


def test_probe_families_differ_and_stay_below_the_ceiling():
    """Classes inside and outside a circle: a linear probe can use nothing, a perceptron nearly all of ln 2."""
    x = torch.randn(1500, 2, generator=torch.Generator().manual_seed(0))
    labels = (x.norm(dim=1) > math.sqrt(2 * math.log(2))).long()
    assert abs(neural.probe_bound(x, labels, steps=400)) < 0.01
    assert 0.5 < neural.probe_bound(x, labels, probe="mlp", steps=400) < math.log(2)
    named = torch.where(labels == 1, 7, -3)
    assert neural.probe_bound(x, named, steps=50) == neural.probe_bound(x, labels, steps=50)


@pytest.mark.parametrize("probe", ["linear", "mlp"])
def test_shuffled_labels_carry_nothing(probe):
    x, labels, _ = two_classes(1000, columns=20)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))
    assert neural.probe_bound(x, labels[order], probe=probe, steps=300) == pytest.approx(0, abs=0.02)


def test_gaussian_probe():
    x, y = correlated(2000)
    wide = torch.cat([x, torch.randn(2000, 4, generator=torch.Generator().manual_seed(1))], 1)
    assert neural.gaussian_probe_bound(wide, y, steps=400) == pytest.approx(gaussian(x, y), abs=0.03)
    assert neural.gaussian_probe_bound(wide, y.exp(), steps=400) == neural.gaussian_probe_bound(wide, y, steps=400)
    assert neural.gaussian_probe_bound(wide, x**2, steps=300) < 0.05
    assert neural.gaussian_probe_bound(wide, x**2, probe="mlp", steps=300) > 0.5


def test_sliced_closed_form_in_the_plane():
    """Isotropic Gaussians of two columns: the mean over angles is -ln((1 + sqrt(1 - rho^2)) / 2)."""
    x, y = correlated(4000, 2, rho=0.9)
    exact = -math.log((1 + math.sqrt(1 - 0.81)) / 2)
    assert neural.sliced(x, y, slices=2000, estimator=gaussian) == pytest.approx(exact, abs=0.02)
    assert gaussian(x, y) > 4 * exact


def test_sliced_is_the_plain_estimator_in_one_dimension():
    x, y = correlated(200)
    assert neural.sliced(x, y, slices=7, estimator=gaussian) == pytest.approx(gaussian(x, y), abs=1e-12)
    assert neural.sliced(x, y, slices=3) == pytest.approx(ksg(x, y), abs=1e-9)


def test_sliced_directions_are_uniform_and_independent():
    seen = []
    x = torch.eye(4, dtype=torch.float64)[:, :3]
    neural.sliced(x, x, slices=4000, estimator=lambda a, b: seen.append(torch.cat([a[:3], b[:3]])) or 0.0)
    directions = torch.stack(seen).squeeze(2)  # (slices, theta and phi)
    assert torch.allclose(directions[:, :3].norm(dim=1), torch.ones(4000, dtype=torch.float64))
    second_moment = directions.T @ directions / 4000
    assert torch.allclose(second_moment, torch.eye(6, dtype=torch.float64) / 3, atol=0.025)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda x, y: neural.mine(x[:30], y[:30]), "30 samples were given: a critic needs at least 50"),
        (lambda x, y: neural.nwj(x, y, critic="deep"), "critic='deep' was given"),  # type: ignore[arg-type]
        (lambda x, y: neural.nwj(x, y, seeds=0), "seeds=0, steps=1000, batch=256"),
        (lambda x, y: neural.mine(x, y, memory=1.0), "memory=1.0 was given"),
        (lambda x, y: neural.probe_bound(x, y), "of an integer type is wanted"),
        (lambda x, y: neural.probe_bound(x, torch.zeros(60, dtype=torch.long)), "Every label is 0"),
        (lambda x, y: neural.probe_bound(x, torch.arange(60) % 2, probe="forest"), "probe='forest' was given"),  # type: ignore[arg-type]
        (lambda x, y: neural.probe_bound(x, torch.arange(60) % 2, folds=7), "7 folds of 60 samples"),
        (lambda x, y: neural.gaussian_probe_bound(x, y.repeat(1, 2)), "y of 2 columns was given"),
        (lambda x, y: neural.sliced(x, y, slices=0), "0 slices were asked for"),
        (lambda x, y: neural.info_nce(x, y[:50]), "x has 60 samples and y has 50"),
    ],
)
def test_bad_input_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call(*correlated(60))
