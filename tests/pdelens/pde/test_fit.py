import pytest
import torch

import pdelens.pde.fit as fitting
from pdelens import Chain, FitError, Flow, Grid, TransformerPDE, fit, integrate
from pdelens.pde.equation import PDE
from pdelens.pde.integrate import solve
from pdelens.pde.plan import Plan
from pdelens.pde.schemes import Steps
from pdelens.pde.terms import Advection, Diffusion, Term


def moving(lattice, diffusivity, velocity, examples=24, width=3, depth=3):
    """A Flow that is diffusion and advection, solved with steps eight times finer than the fit's."""
    terms = {"diffusion": Diffusion(lattice, width, diffusivity), "advection": Advection(lattice, width, velocity)}
    generator = torch.Generator().manual_seed(0)
    u0 = torch.randn(examples, lattice.tokens, width, generator=generator)
    with torch.no_grad():
        return integrate(PDE(terms, lattice, depth), u0, method="rk4", substeps=8)


def calibrated(lattice, flow, steps=160, **settings):
    terms = {"diffusion": Diffusion(lattice, 3, 0.1), "advection": Advection(lattice, 3, 0.0)}
    pde = PDE(terms, lattice, 3)
    found = fit(
        pde, flow, supervision="states", steps=steps, batch=24, peak_rate=0.1, substeps=4, method="strang", **settings
    )
    with torch.no_grad():
        diffusivity, velocity = pde.terms["diffusion"].diffusivity(0.0), pde.terms["advection"].velocity(0.0)
    return found, diffusivity, velocity.detach()


@pytest.mark.parametrize(("diffusivity", "velocity"), [pytest.param(0.2, 0.15, marks=pytest.mark.replay), (0.05, -0.3)])
def test_known_diffusivity_and_velocity_are_recovered(diffusivity, velocity):
    lattice = Chain(20)
    _, found_d, found_v = calibrated(lattice, moving(lattice, diffusivity, velocity))
    assert found_d.tolist() == pytest.approx([diffusivity] * 3, rel=0.05)
    assert found_v.flatten().tolist() == pytest.approx([velocity] * 3, rel=0.05)


@pytest.mark.replay
def test_known_diffusivity_is_recovered_on_a_grid():
    lattice = Grid(5, 5)
    _, found_d, _ = calibrated(lattice, moving(lattice, 0.1, 0.0, examples=8), steps=120)
    assert found_d.tolist() == pytest.approx([0.1] * 3, rel=0.05)


def test_no_diffusion_is_recovered_as_none():
    lattice = Chain(20)
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(24, 20, 3, generator=generator)
    _, found_d, found_v = calibrated(lattice, Flow(states=[state] * 4))
    assert float(found_d.max()) < 0.01 and float(found_v.abs().max()) < 0.01


def small(seed=0, **settings):
    return TransformerPDE(8, 2, Chain(6), depth=3, seed=seed, **settings)


@pytest.fixture(scope="module")
def teacher():
    """Flows of an equation that a calibration can reach: another seed of the same kind."""
    with torch.no_grad():
        return integrate(small(seed=1), torch.randn(48, 6, 8, generator=torch.Generator().manual_seed(0)))


def weights(pde):
    return torch.cat([value.flatten() for value in pde.state_dict().values()])


@pytest.mark.parametrize(
    "settings",
    [{}, {"supervision": "states"}, {"substeps": (1, 3)}, {"refinement": 0.5}],
    ids=lambda s: "-".join(s) or "plain",
)
def test_the_loss_falls(teacher, settings):
    pde = small()
    found = fit(pde, teacher, steps=60, batch=24, peak_rate=0.02, validate_every=10, **settings)
    losses = [row[1] for row in found.record["curve"]]
    assert losses[-1] < 0.5 * losses[0] and found.record["step"] == 60


@pytest.mark.parametrize("substeps", [1, (1, 3)])
def test_killed_and_resumed_gives_the_same_result(teacher, tmp_path, substeps):
    settings = {
        "steps": 24,
        "batch": 16,
        "validate_every": 5,
        "substeps": substeps,
        "validation": teacher.select(slice(0, 8)),
    }
    whole = fit(small(), teacher, checkpoint=tmp_path / "whole.safetensors", **settings)
    stopped = fit(small(), teacher, checkpoint=tmp_path / "parts.safetensors", stop_after=13, **settings)
    assert stopped.record["step"] == 13
    resumed = fit(small(), teacher, checkpoint=tmp_path / "parts.safetensors", **settings)
    assert float((weights(whole.pde) - weights(resumed.pde)).abs().max()) <= 1e-6
    assert [row[0] for row in resumed.record["curve"]] == [row[0] for row in whole.record["curve"]]


def test_labels_and_logits_need_a_readout_and_use_it(teacher):
    head = torch.nn.Linear(8, 3)
    with pytest.raises(ValueError, match="without a readout"):
        fit(small(), teacher, supervision="labels")
    readout = lambda state: head(state.mean(1))  # noqa: E731
    found = fit(small(), teacher, supervision="attention+states+logits", readout=readout, steps=20, validate_every=5)
    assert found.record["curve"][-1][1] < found.record["curve"][0][1]

    def labelled(generator, batch):
        flow = teacher.select(torch.randperm(teacher.examples, generator=generator)[:batch])
        return flow, (flow.states[0].mean((1, 2)) > 0).long()

    found = fit(small(), labelled, supervision="labels", readout=readout, steps=40, validate_every=5, peak_rate=0.02)
    assert found.record["curve"][-1][1] < found.record["curve"][0][1]


def test_early_stopping_keeps_the_best(teacher):
    validation = Flow(states=[torch.randn(8, 6, 8) for _ in range(4)], attention=[a[:8] for a in teacher.attention])
    pde = small()
    found = fit(pde, teacher, validation=validation, steps=400, validate_every=2, patience=3, peak_rate=0.05)
    curve = found.record["curve"]
    assert found.record["step"] < 400 and min(row[2] for row in curve) == found.record["best"]
    assert all(row[2] >= found.record["best"] for row in curve[-3:])


def test_divergence_names_step_and_term_and_keeps_the_checkpoint(teacher, tmp_path):
    path = tmp_path / "fit.safetensors"
    fit(small(), teacher, steps=20, validate_every=5, checkpoint=path, stop_after=10)
    kept = path.read_bytes()
    wild = TransformerPDE(8, 2, Chain(6), depth=3)
    with torch.no_grad():
        wild.terms["reaction"].first.coefficients.mul_(1e30)
        wild.terms["reaction"].second.coefficients.mul_(1e30)
    with pytest.raises(FitError, match=r"optimiser step 0: .*in the term 'reaction'.*Lower peak_rate"):
        fit(wild, teacher, steps=5)
    assert path.read_bytes() == kept


def test_entry_times_refine_the_first_layer_alone():
    """A state that begins small is carried far at once: even steps miss it, steps from early entry times don't."""
    plan = Plan(method="heun", entry=(0.02, 0.1, 0.4), graded=((2, 2), (1, 2)))
    assert plan.times([0.0, 1.0, 2.0]) == [0.0, 0.02, 0.1, 0.4, 1.0, 2.0]
    assert plan.times([2.0, 4.0]) == [2.0, 2.04, 2.2, 2.8, 4.0]
    drawn = plan.draw(torch.Generator().manual_seed(0), 3)
    assert len(drawn.substeps) == 6 and drawn.substeps[0] == 2 and set(drawn.substeps[1:]) <= {1, 2}
    pde = small(diffusion=None)
    start = 0.02 * torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        exact = integrate(pde, start, method="rk4", substeps=200)
        flow = Flow(exact.states, exact.attention, exact.mask)
        errors = []
        for entry in ((), (0.02, 0.1, 0.4)):
            # As many sub-steps in the first layer, at other places.
            counts = (4, 1, 1) if not entry else (1, 1, 1, 1, 1, 1)
            how = Steps("heun", counts)
            states, maps = fitting._rolled_out(pde, flow, how, Plan(method="heun", entry=entry))
            assert len(states) == 4 and len(maps) == 3
            errors.append(float((states[1] - exact.states[1]).square().mean()))
    assert errors[1] < 0.5 * errors[0]


def test_forced_layers_begin_at_the_teachers_states():
    """The equation that made the Flow gives each layer's end from its true beginning, with entry times or without."""
    pde = small(seed=1)
    start = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        flow = integrate(pde, start, method="rk4", substeps=16)
        for entry in ((), (0.1, 0.5)):
            states, maps = fitting._forced(pde, flow, Steps("rk4", 8), Plan(entry=entry))
            for ours, theirs in zip(states + maps, [*flow.states, *flow.attention], strict=True):
                torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_the_end_of_a_plan_takes_twice_the_sub_steps(teacher, monkeypatch):
    taken = []
    real = fitting._rolled_out
    monkeypatch.setattr(fitting, "_rolled_out", lambda *given: (taken.append(given[2].substeps), real(*given))[1])
    fit(small(), teacher, graded=((3, 3), (1, 1)), doubled=0.5, steps=4, batch=8, method="heun", validate_every=9)
    assert taken == [(3, 1, 1), (3, 1, 1), (6, 2, 2), (6, 2, 2)]


def test_the_beginning_of_a_plan_takes_one_lie_step_a_layer(teacher, monkeypatch):
    taken = []
    for name in ("_rolled_out", "_forced"):
        real = getattr(fitting, name)

        def noted(pde, flow, how, plan, *others, name=name, real=real):
            taken.append((name, how.method, how.substeps, plan.entry))
            return real(pde, flow, how, plan, *others)

        monkeypatch.setattr(fitting, name, noted)
    plan = {"graded": ((3, 3), (1, 1)), "entry": (0.1,), "method": "heun", "steps": 6, "batch": 8}
    fit(small(), teacher, **plan, forced=0.5, coarse=2 / 3, validate_every=9)
    lie, refined = ("lie", 1, ()), ("heun", (3, 1, 1, 1), (0.1,))
    assert taken == [("_forced", *lie)] * 3 + [("_rolled_out", *lie)] + [("_rolled_out", *refined)] * 2


def test_strains_are_the_difference_of_heuns_step_from_eulers():
    """du/dt = J u turns the plane: Heun and Euler differ by dt^2 J^2 u / 2, and |J^2 u| = |u|."""

    class Turn(Term):
        def forward(self, t, u, mask=None):
            return torch.stack([-u[..., 1], u[..., 0]], -1)

    u = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.arange(5) < torch.tensor([[5], [2], [4]])
    for padding in (None, mask):
        strains, dt = [], 0.25
        states, _ = solve(PDE({"turn": Turn()}, None, 1.0), u, [0.0, 0.5, 1.0], Steps("heun", 2), padding, strains)
        assert len(strains) == 4
        rows = u if padding is None else u[padding]
        assert float(strains[0]) == pytest.approx(float((dt**2 / 2 * rows).square().mean()))
        later = states[1] if padding is None else states[1][padding]
        assert float(strains[2]) == pytest.approx(float((dt**2 / 2 * later).square().mean()))


def test_a_smooth_field_needs_fewer_steps(teacher):
    """The same calibration with the penalty, in its rolled-out half and its forced one, solves nearer to converged."""
    gaps = []
    for smooth in (0.0, 3.0):
        pde = small()
        fit(pde, teacher, method="heun", steps=60, batch=8, forced=0.5, smooth=smooth, peak_rate=0.03)
        with torch.no_grad():
            coarse, fine = (integrate(pde, teacher.states[0], method="heun", substeps=n) for n in (1, 16))
        gaps.append(float((coarse.states[-1] - fine.states[-1]).norm() / fine.states[-1].norm()))
    assert gaps[1] < 0.5 * gaps[0]


def test_a_clock_is_calibrated_and_its_times_are_found():
    """The teacher is one heat flow read at uneven times; the equation starts with even ones."""
    start = torch.randn(64, 6, 8, generator=torch.Generator().manual_seed(0))
    times = [0.0, 0.2, 1.2, 1.5]
    flow = integrate(PDE({"d": Diffusion(Chain(6), 8, 0.3)}, Chain(6), 2.0), start, times, method="rk4", substeps=4)
    flow = Flow(flow.states)
    pde = TransformerPDE(8, 2, Chain(6), depth=3, attention=False, reaction=False, diffusion=0.3, clock=True)
    pde.terms["diffusion"].raw.coefficients.requires_grad_(False)
    found = fit(pde, flow, supervision="states", method="rk4", steps=200, batch=32, peak_rate=0.1, optimizer="adam")
    assert found.pde.layer_times == pytest.approx(times[1:], abs=0.02)


def test_bad_plans_are_named():
    with pytest.raises(ValueError, match="choose from states"):
        Plan(supervision="weights")
    with pytest.raises(ValueError, match=r"smooth=0\.1 with method 'lie'"):
        Plan(smooth=0.1)
    with pytest.raises(ValueError, match="from 1 up"):
        Plan(substeps=(3, 1))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"method": "rk45"}, "method 'rk45' was given: choose from euler, heun, rk4, lie, strang"),
        ({"method": "dopri5"}, "method 'dopri5' was given: choose from"),
        ({"steps": 0}, "steps=0 was given: a whole number, at least 1"),
        ({"steps": 2.5}, "steps=2.5 was given: a whole number"),
        ({"batch": -1}, "batch=-1 was given"),
        ({"validate_every": 0}, "validate_every=0 was given"),
        ({"patience": -2}, "patience=-2 was given: a whole number, at least 0"),
        ({"peak_rate": 0.0}, "peak_rate=0.0 was given: a number above 0"),
        ({"peak_rate": float("nan")}, "peak_rate=nan was given"),
        ({"refinement": -1.0}, "refinement=-1.0 was given: a number not below 0"),
        ({"smooth": float("inf"), "method": "heun"}, "smooth=inf was given"),
        ({"coarse": 1.5}, r"a share of 1.5 coarse steps was given"),
    ],
)
def test_every_setting_of_a_plan_is_looked_at(settings, says):
    with pytest.raises(ValueError, match=says):
        Plan(**settings)


def test_what_an_equation_cannot_be_calibrated_to_is_named(teacher):
    with pytest.raises(ValueError, match="a plan and steps were given: put settings into the plan"):
        fit(small(), teacher, Plan(), steps=3)
    alone = Flow(teacher.states)
    with pytest.raises(ValueError, match=r"'attention\+states' was asked for, but the Flow has no attention"):
        fit(small(), alone, steps=2, supervision="attention+states")
    with pytest.raises(ValueError, match=r"no variance over 1 example\(s\)"):
        fit(small(), teacher.select(slice(0, 1)), steps=2)
    with pytest.raises(ValueError, match="the Flow reaches depth 3, but the equation's depth is 2"):
        fit(TransformerPDE(8, 2, Chain(6), depth=2), teacher, steps=2)
    with pytest.raises(ValueError, match="a Flow without states was given"):
        fit(small(), Flow(attention=teacher.attention), steps=2)


def test_padding_does_not_decide_how_errors_are_measured(teacher):
    """Padded equals cropped: garbage behind the real tokens changes neither the scales nor the loss."""
    states = [torch.cat([s, 1e3 * torch.randn(len(s), 2, 8)], 1) for s in teacher.states]
    maps = [torch.nn.functional.pad(a, (0, 2, 0, 2)) for a in teacher.attention]
    mask = (torch.arange(8) < 6).expand(teacher.examples, 8)
    padded, plan = Flow(states, maps, mask), Plan(supervision="attention+states")
    scales = [fitting._fitting(small(), flow, plan) for flow in (teacher, padded)]
    torch.testing.assert_close(*scales)
    # Examples of different lengths: whatever stands behind their ends.
    ragged = torch.arange(8) < (3 + torch.arange(teacher.examples) % 5)[:, None]
    even = [torch.full_like(a, 1 / 8) for a in maps]
    filled = [Flow([torch.where(ragged[..., None], s, fill) for s in states], even, ragged) for fill in (0.0, 1e3)]
    torch.testing.assert_close(*(fitting._fitting(small(), flow, plan) for flow in filled))
    ours = integrate(small(seed=3), teacher.states[0])
    wide = [torch.cat([s, torch.randn(len(s), 2, 8)], 1) for s in ours.states]
    wide_maps = [torch.nn.functional.pad(a, (0, 2, 0, 2), value=0.3) for a in ours.attention]
    losses = [
        fitting._supervised(states, maps, flow, None, plan, scales[0], None)
        for states, maps, flow in ((ours.states, ours.attention, teacher), (wide, wide_maps, padded))
    ]
    torch.testing.assert_close(*losses)
