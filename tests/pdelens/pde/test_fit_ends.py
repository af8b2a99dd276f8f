"""How a calibration ends, what it gives back, and what steps its parameters."""

import pytest
import torch

import pdelens.pde.fit as fitting
from pdelens import Chain, Flow, TransformerPDE, fit, integrate
from pdelens.pde.equation import PDE
from pdelens.pde.plan import Plan, doubled
from pdelens.pde.schemes import Steps
from pdelens.pde.terms import Reaction


def small(seed=0, **settings):
    return TransformerPDE(8, 2, Chain(6), depth=3, seed=seed, **settings)


@pytest.fixture(scope="module")
def teacher():
    with torch.no_grad():
        return integrate(small(seed=1), torch.randn(20, 6, 8, generator=torch.Generator().manual_seed(0)))


def weights(pde):
    return torch.cat([value.flatten() for value in pde.state_dict().values()])


BRIEF = {"supervision": "states", "steps": 12, "batch": 4}


def test_what_left_off_holds_its_last_step_and_what_is_finished_its_last_validation(teacher):
    for stop, taken in ((6, 6), (None, 12)):
        often, seldom = (fit(small(), teacher, **BRIEF, validate_every=every, stop_after=stop) for every in (1, 4))
        assert often.record["step"] == seldom.record["step"] == taken
        assert torch.equal(weights(often.pde), weights(seldom.pde))
        assert often.finished is seldom.finished is (stop is None)


def test_what_is_finished_holds_the_best_validation(teacher):
    """Validated on the states of another equation: after a while it only gets worse."""
    with torch.no_grad():
        other = integrate(small(seed=7), teacher.states[0][:6])
    given = {**BRIEF, "steps": 30, "peak_rate": 0.05, "validation": other}
    found = fit(small(), teacher, validate_every=3, **given)
    best = min(found.record["curve"], key=lambda row: row[2])
    assert best[0] < 30 and found.record["best"] == best[2]
    again = fit(small(), teacher, validate_every=1, stop_after=best[0], **given)
    assert torch.equal(weights(found.pde), weights(again.pde))


def test_without_patience_a_calibration_goes_to_its_end(teacher):
    noise = Flow([torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(n)) for n in range(4)])
    given = {**BRIEF, "validation": noise, "peak_rate": 0.1, "validate_every": 1}
    whole = fit(small(), teacher, **given)
    held = [row[2] for row in whole.record["curve"]]
    assert whole.record["step"] == 12 and whole.finished
    waits = [number for number in range(1, 12) if held[number] >= min(held[:number])]
    assert waits, "it must get worse somewhere"
    for patience in (1, 2):
        run, ends = 0, 12
        for number in range(1, 12):
            run = run + 1 if held[number] >= min(held[:number]) else 0
            if run == patience:
                ends = number + 1
                break
        stopped = fit(small(), teacher, **given, patience=patience)
        assert stopped.record["step"] == ends and stopped.finished


def test_a_calibration_leaves_off_at_its_time(teacher, monkeypatch):
    now = iter(range(100))
    monkeypatch.setattr(fitting.time, "time", lambda: float(next(now)))
    found = fit(small(), teacher, **BRIEF, validate_every=2, until=1.0)
    assert found.record["step"] == 6 and not found.finished


@pytest.mark.parametrize("settings", [{}, {"temporal_modes": 2}, {"rank": 2}, {"scaled": True}], ids=str)
def test_muon_steps_every_matrix_as_such_and_adam_the_rest(settings):
    pde = small(advection=0.1, clock=True, **settings)
    groups = fitting._optimizer(pde, Plan()).param_groups
    matrices = {id(value): group["parts"] for group in groups if group.get("matrix", True) for value in group["params"]}
    attention, reaction = pde.terms["attention"], pde.terms["reaction"]
    wanted = {attention.inputs: 3, attention.output: 1, reaction.first: 1, reaction.second: 1}
    assert matrices == {id(modes.coefficients): parts for modes, parts in wanted.items()}
    rest = [value for group in groups if not group.get("matrix", True) for value in group["params"]]
    assert {id(value) for value in rest} | set(matrices) == {id(value) for value in pde.parameters()}
    assert len(rest) + len(matrices) == len(list(pde.parameters()))
    adam = fitting._optimizer(pde, Plan(optimizer="adam", peak_rate=0.5))
    assert isinstance(adam, torch.optim.Adam) and adam.param_groups[0]["lr"] == 0.5


def test_matrices_of_two_columns_are_no_matrices_to_muon():
    for width, hidden, taken in ((1, 5, 0), (2, 2, 0), (2, 3, 1), (3, 3, 2)):
        # (hidden, width + 1) and (width, hidden + 1): both sides of a matrix have to pass 2.
        pde = PDE({"r": Reaction(width, hidden, lambda u: u)}, None, 1.0)
        groups = fitting._optimizer(pde, Plan()).param_groups
        assert sum(len(group["params"]) for group in groups if group.get("matrix", True)) == taken


@pytest.mark.parametrize("padded", [False, True])
def test_losses_are_those_of_a_plain_loop(teacher, padded):
    mask = torch.arange(6) < (torch.tensor([[6], [3], [4], [1]]) if padded else 6)
    mask = mask.expand(4, 6)
    flow = Flow([s[:4] for s in teacher.states], [a[:4] for a in teacher.attention], mask)
    with torch.no_grad():
        ours = integrate(small(seed=3), flow.states[0])
    scales = torch.tensor([0.5, 1.0, 2.0])
    readout = lambda state, mask=None: state[:, 0, :3] + (0 if mask is None else mask.sum(1, keepdim=True))  # noqa: E731
    found = {
        kind: float(
            fitting._supervised(ours.states, ours.attention, flow, None, Plan(supervision=kind), scales, readout)
        )
        for kind in ("states", "attention+states", "attention+states+logits")
    }
    states = attention = 0.0
    for layer in range(3):
        errors, rows = [], []
        for example in range(4):
            for token in range(6):
                if mask[example, token]:
                    a, b = ours.states[layer + 1][example, token], flow.states[layer + 1][example, token]
                    errors += [float(x - y) ** 2 for x, y in zip(a, b, strict=True)]
                    for head in range(2):
                        p, q = flow.attention[layer][example, head, token], ours.attention[layer][example, head, token]
                        rows.append(float((p * (p / q).log()).sum()))
        states += sum(errors) / len(errors) / float(scales[layer]) / 3
        attention += sum(rows) / len(rows) / 3
    assert found["states"] == pytest.approx(states, rel=1e-4)
    assert found["attention+states"] == pytest.approx(states + attention, rel=1e-4)
    padding = flow.padding
    p, q = (torch.softmax(readout(s, padding), -1) for s in (flow.states[-1], ours.states[-1]))
    logits = float((p * (p / q).log()).sum(-1).mean())
    assert found["attention+states+logits"] == pytest.approx(states + attention + logits, rel=1e-4)


def test_scales_are_variances_about_the_mean_over_examples(teacher):
    scales = fitting._fitting(small(), teacher, Plan())
    for layer in range(3):
        values = teacher.states[layer + 1]
        assert float(scales[layer]) == pytest.approx(float(values.var(0, unbiased=False).mean()), rel=1e-4)
    assert fitting._fitting(small(), teacher, Plan(supervision="labels")).tolist() == [1, 1, 1]


def test_strains_are_summed_over_the_variance_at_their_layers_end():
    scales = torch.tensor([2.0, 5.0])
    strains = [torch.tensor(float(n)) for n in (1, 2, 4, 8, 16)]
    plain = fitting._strain(strains[:4], Steps("heun", 2), 0, scales)
    assert float(plain) == pytest.approx((1 + 2) / 2 + (4 + 8) / 5)
    # An entry time: the first layer has two parts.
    entered = fitting._strain(strains, Steps("heun", (1, 2, 2)), 1, scales)
    assert float(entered) == pytest.approx((1 + 2 + 4) / 2 + (8 + 16) / 5)


def test_batches_are_drawn_without_replacement_and_carry_no_gradients(teacher):
    carried = Flow([s.clone().requires_grad_() for s in teacher.states])
    flow, labels = fitting._drawn(carried, torch.Generator().manual_seed(0), 8)
    assert labels is None and flow.examples == 8 and not flow.states[0].requires_grad
    rows = [int((teacher.states[0] == row).flatten(1).all(1).nonzero()) for row in flow.states[0]]
    assert len(set(rows)) == 8
    assert fitting._drawn(carried, torch.Generator().manual_seed(0), 64)[0].examples == 20
    given, named = fitting._drawn(lambda _, batch: (carried.select(slice(0, batch)), torch.arange(batch)), None, 3)
    assert named is not None and named.tolist() == [0, 1, 2] and not given.states[0].requires_grad


def test_plans_draw_each_layers_substeps_within_their_ends():
    graded = Plan(graded=((1, 2), (4, 6)), entry=(0.5,))
    seen = [graded.draw(torch.Generator().manual_seed(n), 3).substeps for n in range(40)]
    assert all(len(counts) == 4 for counts in seen)
    assert {counts[0] for counts in seen} == {1, 2}
    assert all({counts[place] for counts in seen} == {4, 5, 6} for place in (1, 2, 3))
    assert any(len(set(counts[1:])) > 1 for counts in seen), "each layer by itself"
    assert {Plan(substeps=(2, 3)).draw(torch.Generator().manual_seed(n), 3).substeps for n in range(20)} == {2, 3}
    assert graded.finest == Steps("lie", (2, 6)) and Plan(substeps=3).finest == Steps("lie", (3,))
    assert Plan(substeps=(2, 4), doubled=0.1, method="heun").finest == Steps("heun", (8,))
    assert doubled(Steps("rk4", 3)) == Steps("rk4", (6,)) and doubled(Steps("rk4", (1, 2))) == Steps("rk4", (2, 4))


@pytest.mark.parametrize(
    "given",
    [
        {"substeps": 0},
        {"substeps": (3, 2)},
        {"graded": ((1, 1), (0, 2))},
        {"entry": (0.0, 0.5)},
        {"entry": (0.5, 0.5)},
        {"entry": (0.5, 1.0)},
        {"forced": 1.01},
        {"doubled": -0.1},
        {"peak_rate": 0.0},
        {"patience": -1},
        {"batch": 0},
        {"validate_every": 0},
        {"smooth": 0.1},
        {"refinement": -1.0},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused_and_their_neighbours_are_not(given):
    with pytest.raises(ValueError, match="given"):
        Plan(**given)
    Plan(
        substeps=(2, 2), entry=(0.01, 0.99), forced=1.0, coarse=1.0, doubled=0.0, patience=0, batch=1, validate_every=1
    )
    Plan(smooth=0.1, method="heun", steps=1, seed=0, graded=[(1, 1)])
