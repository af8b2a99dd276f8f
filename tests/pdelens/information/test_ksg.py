import math

import numpy as np
import pytest
import torch
from scipy.special import digamma
from sklearn.feature_selection import mutual_info_classif, mutual_info_regression
from sklearn.preprocessing import scale

from pdelens.information import _bits, tasks
from pdelens.information.ksg import class_ksg, conditional_ksg, ksg
from pdelens.information.samples import untied

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def plain_distances(part):
    distance = np.abs(part[:, None] - part[None]).max(-1)
    np.fill_diagonal(distance, np.inf)
    return distance


def plain_ksg(x, y, k=10, variant=1):
    """The textbook's algorithm, sample by sample with every distance at hand."""
    in_x, in_y = (plain_distances(part.double().cpu().numpy()) for part in (x, y))
    both, terms = np.maximum(in_x, in_y), []
    for i in range(len(x)):
        nearest = np.argsort(both[i], kind="stable")[:k]
        if variant == 1:
            radius = both[i, nearest[-1]]
            terms.append(digamma((in_x[i] < radius).sum() + 1) + digamma((in_y[i] < radius).sum() + 1))
        else:
            counts = [(part[i] <= part[i, nearest].max()).sum() for part in (in_x, in_y)]
            terms.append(digamma(counts).sum() + 1 / k)
    return digamma(k) + digamma(len(x)) - np.mean(terms)


def bound(values):
    """Return four standard errors of the mean over seeds."""
    return 4 * float(np.std(values, ddof=1)) / len(values) ** 0.5


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(dx, dy, samples=400, correlation=0.8, seed=0):
    """Return x and y whose first min(dx, dy) columns correlate in pairs, and their information in nats."""
    x, y, shared = normal(samples, dx, seed=seed), normal(samples, dy, seed=seed + 1000), min(dx, dy)
    y[:, :shared] = correlation * x[:, :shared] + (1 - correlation**2) ** 0.5 * y[:, :shared]
    return x, y, -0.5 * shared * math.log(1 - correlation**2)


def heavy_tails():
    random = np.random.default_rng(0)
    x = random.standard_t(1, (400, 2))
    return torch.from_numpy(x), torch.from_numpy(x[:, :1] + random.standard_t(1, (400, 1)))


def discrete_continuous(samples=400, classes=5, seed=0):
    """Return a class, jittered, and a number uniform in [class, class + 2]; their information (Gao et al. 2017)."""
    generator = torch.Generator().manual_seed(seed)
    # Whole numbers would be refused as labels.
    x = torch.randint(0, classes, (samples, 1), generator=generator).double() + 0.5
    y = x + 2 * torch.rand(samples, 1, generator=generator, dtype=torch.float64)
    return untied(x, y, generator)[0], y, math.log(classes) - (classes - 1) * math.log(2) / classes


TASKS = {
    "1 + 1": lambda: gaussian(1, 1)[:2],
    "2 + 3": lambda: gaussian(2, 3)[:2],
    "5 + 5": lambda: gaussian(5, 5)[:2],
    "25 + 25": lambda: gaussian(25, 25)[:2],
    "1 + 12": lambda: gaussian(1, 12)[:2],
    "heavy tails": heavy_tails,
    "ties, jittered": lambda: discrete_continuous()[:2],
    "far from the origin": lambda: [part + 1e6 for part in gaussian(2, 2)[:2]],
    "float32": lambda: [part.float() for part in gaussian(3, 3)[:2]],
    "unlike scales": lambda: (1e-3 * gaussian(2, 2)[0], 1e3 * gaussian(2, 2)[1]),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("task", TASKS)
def test_ksg_is_the_textbooks(task, variant, device):
    x, y = TASKS[task]()
    for k in (1, 10):
        found = ksg(x.to(device), y.to(device), neighbours=k, variant=variant)
        assert found == pytest.approx(plain_ksg(x, y, k, variant), abs=1e-11)


@pytest.mark.parametrize("task", tasks.tasks(), ids=lambda task: task.name)
def test_ksg_is_the_textbooks_on_every_task_of_the_catalogue(task):
    x, y = task.sample(300, seed=1)
    assert ksg(x, y) == pytest.approx(plain_ksg(x, y), abs=1e-10)


@pytest.mark.parametrize("dims", [1, 5])
def test_ksg_is_the_textbooks_where_bits_take_over(dims, monkeypatch):
    """Past the size up to which few samples are compared one by one; the plain version needs 400 samples."""
    monkeypatch.setattr(_bits, "FEW", 32)
    monkeypatch.setattr(_bits, "BLOCK", 128)
    x, y, _ = gaussian(dims, 9)
    for variant in (1, 2):
        assert ksg(x, y, variant=variant) == pytest.approx(plain_ksg(x, y, 10, variant), abs=1e-11)


@pytest.mark.parametrize("dims", [1, 3])
def test_a_copy_reaches_the_ceiling(dims):
    x = normal(300, dims)
    ceiling = digamma(300) - digamma(7)
    assert ksg(x, x, neighbours=7) == pytest.approx(ceiling, abs=1e-12)
    assert ksg(x, x, neighbours=7, variant=2) == pytest.approx(ceiling - 1 / 7, abs=1e-12)


@pytest.mark.parametrize(("dims", "correlation"), [(1, 0.0), (1, 0.6), (1, 0.9), (2, 0.5), (3, 0.0)])
@pytest.mark.parametrize("variant", [1, 2])
def test_gaussian_within_sampling_error(variant, dims, correlation):
    exact = gaussian(dims, dims, 2, correlation)[2]
    found = [
        ksg(*gaussian(dims, dims, 1000, correlation, seed)[:2], neighbours=4, variant=variant) for seed in range(12)
    ]
    assert np.mean(found) == pytest.approx(exact, abs=bound(found))
    assert bound(found) < 0.06


def test_jittered_ties_within_sampling_error():
    drawn = [discrete_continuous(1000, seed=seed) for seed in range(12)]
    # The jittered classes touch, and more neighbours reach across: 4 of them are 0.05 nats low, 1 is 0.02.
    found = [ksg(x, y, neighbours=1) for x, y, _ in drawn]
    assert np.mean(found) == pytest.approx(drawn[0][2], abs=bound(found))


@pytest.mark.parametrize("variant", [1, 2])
@pytest.mark.parametrize("dims", [1, 4])
def test_invariances(dims, variant):
    """On a grid of 2^-30 a shift by 4 and a doubling are exact, so the estimate has to stay exactly."""
    x, y = ((part * 2**30).round() / 2**30 for part in gaussian(dims, dims)[:2])
    value = ksg(x, y, variant=variant)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert ksg(x + 4, y - 4, variant=variant) == value
    assert ksg(2 * x, 2 * y, variant=variant) == value
    assert ksg(y, x, variant=variant) == pytest.approx(value, abs=1e-12)
    assert ksg(x[order], y[order], variant=variant) == pytest.approx(value, abs=1e-12)
    assert ksg(x.flip(1), -y, variant=variant) == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_parity_with_scikit_learn(correlation):
    """Its convention: columns over their deviation, uncentred; noise of 1e-10 of the mean size; never negative."""
    x, y = (part.numpy() + 1.5 for part in gaussian(1, 1, 500, correlation)[:2])
    theirs = mutual_info_regression(x, y[:, 0], n_neighbors=3, random_state=0)[0]
    random = np.random.RandomState(0)
    noisy = []
    for part in (x, y):
        scaled = scale(part, with_mean=False)
        noisy.append(
            torch.from_numpy(scaled + 1e-10 * max(1, np.abs(scaled).mean()) * random.standard_normal((500, 1)))
        )
    assert max(0, ksg(*noisy, neighbours=3)) == pytest.approx(theirs, abs=1e-12)


def plain_conditional(x, y, z, k):
    in_x, in_y, in_z = (plain_distances(part.numpy()) for part in (x, y, z))
    xz, yz = np.maximum(in_x, in_z), np.maximum(in_y, in_z)
    radius = np.sort(np.maximum(xz, yz), 1)[:, k - 1 : k]
    counts = [digamma((part < radius).sum(1) + 1).mean() for part in (xz, yz, in_z)]
    return digamma(k) - counts[0] - counts[1] + counts[2]


@pytest.mark.parametrize("dims", [(1, 1, 1), (2, 1, 3), (4, 4, 4)])
def test_conditional_is_the_textbooks(dims):
    x, y, z = (normal(400, dim, seed=seed) for seed, dim in enumerate(dims))
    x, y = x + z[:, :1], y + z[:, :1] * x[:, :1]
    for k in (1, 5):
        assert conditional_ksg(x, y, z, neighbours=k) == pytest.approx(plain_conditional(x, y, z, k), abs=1e-11)


def test_conditional_of_a_chain_is_zero_and_of_a_gaussian_known():
    """x - z - y has I(X;Y|Z) = 0; noises that correlate by r beside a common z have -1/2 ln(1 - r^2)."""
    chain, known = [], []
    for seed in range(10):
        z, (a, b, _) = normal(1000, 1, seed=50 + seed), gaussian(1, 1, 1000, 0.8, seed)
        independent = normal(1000, 1, seed=500 + seed)
        chain.append(conditional_ksg(z + a, z + independent, z, neighbours=5))
        known.append(conditional_ksg(z + a, z + b, z, neighbours=5))
        assert ksg(z + a, z + independent, neighbours=5) > 0.1
    assert np.mean(chain) == pytest.approx(0, abs=bound(chain))
    assert np.mean(known) == pytest.approx(-0.5 * math.log(1 - 0.8**2), abs=0.05)


def test_bad_input_is_named():
    x, y, _ = gaussian(1, 2, samples=20)
    with pytest.raises(ValueError, match="20 neighbours of 20 samples"):
        ksg(x, y, neighbours=20)
    with pytest.raises(ValueError, match="20 and 19 samples"):
        ksg(x, y[1:])
    with pytest.raises(ValueError, match=r"^y of shape \(20,\)"):
        ksg(x, y[:, 0])
    with pytest.raises(ValueError, match="1 of 40 values of y are NaN"):
        ksg(x, y.where(y != y[3, 1], torch.nan))
    with pytest.raises(ValueError, match="Variant 3"):
        ksg(x, y, variant=3)


def slow_ross(x, labels, neighbours):
    """Ross's equation word by word."""
    kept = [i for i in range(len(x)) if (labels == labels[i]).sum() > 1]
    total = 0.0
    for i in kept:
        distance = np.abs(x - x[i]).max(1)
        own = sorted(distance[j] for j in kept if labels[j] == labels[i] and j != i)
        k = min(neighbours, len(own))
        nearer = sum(distance[j] < own[k - 1] for j in kept if j != i)
        total += digamma(k) - digamma(len(own) + 1) - digamma(nearer + 1)
    return digamma(len(kept)) + total / len(kept)


@pytest.mark.parametrize("neighbours", [1, 3, 10])
@pytest.mark.parametrize(("classes", "dims"), [(2, 1), (7, 2), (25, 3)])
def test_classes_against_the_plain_count(classes, dims, neighbours):
    """The many classes are of all sizes from 1 on."""
    random = np.random.default_rng(classes)
    labels = random.integers(0, classes, 70)
    x = random.normal(size=(70, dims)) + labels[:, None] % 3
    found = class_ksg(torch.from_numpy(x), torch.from_numpy(labels), neighbours=neighbours)
    assert found == pytest.approx(slow_ross(x, labels, neighbours), abs=1e-12)


@pytest.mark.parametrize("neighbours", [1, 3, 10])
@pytest.mark.parametrize(("classes", "shift"), [(2, 0.0), (2, 1.0), (5, 2.0)])
def test_classes_are_scikit_learns_where_both_count_exactly(classes, shift, neighbours):
    """In one column. Theirs takes distances as differences of squares where a class has few members, and cuts at 0."""
    random = np.random.default_rng(3)
    labels = random.integers(0, classes, 300)
    x = random.normal(size=300) + shift * labels
    found = class_ksg(torch.from_numpy(x[:, None]), torch.from_numpy(labels), neighbours=neighbours)
    theirs = mutual_info_classif(x[:, None], labels, n_neighbors=neighbours, random_state=0)[0]
    assert max(found, 0.0) == pytest.approx(theirs, abs=1e-12)


def test_classes_at_their_closed_form_and_ceiling():
    random = np.random.default_rng(5)
    labels = np.arange(1500) % 3
    x = torch.from_numpy(random.normal(size=(1500, 1)) + 2 * labels[:, None])
    grid = np.linspace(-10, 14, 20_001)
    each = np.exp(-0.5 * (grid[:, None] - 2 * np.arange(3)) ** 2) / math.sqrt(2 * math.pi)
    mixed = each.mean(1)
    truth = -np.trapezoid(mixed * np.log(mixed), grid) - 0.5 * math.log(2 * math.pi * math.e)
    assert class_ksg(x, torch.from_numpy(labels)) == pytest.approx(truth, abs=0.05)
    apart = class_ksg(x + 100 * labels[:, None], torch.from_numpy(labels))
    assert apart == pytest.approx(digamma(1500) - digamma(500), abs=1e-12)
    named = torch.from_numpy(labels).double() * -0.5
    assert class_ksg(x, named) == class_ksg(x, torch.from_numpy(labels))


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: class_ksg(x, torch.arange(9)), r"labels of shape \(9,\) were given: one for each of 10 samples"),
        (lambda x: class_ksg(x, torch.arange(10)), "No class has two of the 10 samples"),
        (lambda x: class_ksg(x, torch.zeros(10), neighbours=0), "0 neighbours were asked for"),
        (lambda x: class_ksg(x * torch.nan, torch.zeros(10)), "NaN or infinite"),
    ],
)
def test_bad_classes_are_named(call, says):
    with pytest.raises(ValueError, match=says):
        call(torch.randn(10, 2))
