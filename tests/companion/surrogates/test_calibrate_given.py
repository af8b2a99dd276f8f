"""What a calibration is given, what is read off an equation, and on what it is judged."""

from dataclasses import replace

import pytest
import torch

from companion.data import fashion_mnist
from companion.jobs import Run
from companion.surrogates import calibrate, files, specs
from companion.surrogates.calibrate import Calibration
from companion.teachers import bank, teacher
from pdelens import Chain, Grid, TransformerPDE

SPEC = files.spec_named("rung-image-patch4-full-k1-seed0", "smoke")
JOB = Calibration(SPEC)


@pytest.fixture(scope="module", autouse=True)
def few_pictures():
    """Give the committed calibration pictures in place of the training set, and keep what was computed of them."""
    caches = (teacher.cached_teacher, bank.cached_bank, teacher.flow_on)
    for kept in caches:
        kept.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teacher, "fashion_mnist", lambda train: fashion_mnist.fashion_mnist_subset("calibration"))
        yield
    for kept in caches:
        kept.cache_clear()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return Run("smoke", tmp_path_factory.mktemp("run"))


class Stopped(Exception):
    """Raised in place of a calibration."""


@pytest.fixture
def asked(monkeypatch):
    """Record what a calibration is given, and end it there."""
    calls = []

    def fit(*given, **how):
        calls.append((given, how))
        raise Stopped

    monkeypatch.setattr(calibrate, "fit", fit)
    return calls


@pytest.mark.parametrize(
    ("supervision", "reads"),
    [("labels", True), ("attention+states+logits", True), ("attention+states", False), ("states", False)],
)
def test_a_calibration_is_given_what_its_plan_needs(run, asked, supervision, reads):
    spec = replace(SPEC, plan=replace(SPEC.plan, supervision=supervision), horizon=2)
    with pytest.raises(Stopped):
        Calibration(spec).do(replace(run, deadline=123.0))
    (((pde, drawn, plan), how),) = asked
    subject = teacher.cached_teacher(spec.teacher, run)
    assert how["readout"] == (subject.readout if reads else None)
    assert how["until"] == 123.0 and how["checkpoint"] == run.folder / f"{spec.name}.checkpoint.safetensors"
    assert plan == calibrate.plan_of(spec, "smoke") and str(pde) == str(spec.build(subject))
    held = teacher.flow_on(spec.teacher, run, "validation", teacher.VALIDATION)
    assert torch.equal(how["validation"].states[2], held.states[2]) and how["validation"].layers == 2
    flow, labels = drawn(torch.Generator().manual_seed(0), 3)
    assert flow.layers == 2 and flow.examples == len(labels) == 3


def test_plans_follow_scale_and_seed():
    for scale, steps in specs.STEPS.items():
        plan = calibrate.plan_of(replace(SPEC, seed=4), scale)
        assert (plan.steps, plan.seed, plan.validate_every) == (steps, 4, max(1, steps // 15))
        same = {"steps": 9, "seed": 0, "validate_every": 1}
        assert replace(plan, **same) == replace(SPEC.plan, **same)


def test_what_was_learnt_locally_by_depth_and_channel():
    pde = TransformerPDE(8, 2, Grid(3, 4), depth=3, diffusion=0.2, advection=0.1, temporal_modes=3)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in pde.parameters():
            value += torch.randn(value.shape, generator=generator)
    found = calibrate.learnt_coefficients(pde)
    for depth in range(4):
        d = pde.terms["diffusion"].diffusivity(float(depth)).detach()
        v = pde.terms["advection"].velocity(float(depth)).detach()
        assert found["diffusivity"]["mean"][depth] == pytest.approx(float(sum(d) / 8))
        assert found["diffusivity"]["largest"][depth] == pytest.approx(max(d.tolist()))
        assert v.shape == (2, 8)
        for axis in range(2):
            assert found["velocity"]["mean"][depth][axis] == pytest.approx(float(sum(v[axis]) / 8), abs=1e-6)
        sizes = [abs(float(x)) for row in v for x in row]
        assert found["velocity"]["largest"][depth] == pytest.approx(max(sizes))
    assert len(found["diffusivity"]["mean"]) == len(found["velocity"]["largest"]) == 4 and "times" not in found
    mean = sum(pde.terms["diffusion"].diffusivity(float(depth)).detach() for depth in range(4)) / 4
    assert found["diffusivity"]["channels"] == pytest.approx(mean.tolist(), abs=1e-5)
    assert calibrate.learnt_coefficients(TransformerPDE(8, 2, Chain(5), depth=2, diffusion=None)) == {}


def test_a_clocks_pace_is_part_of_what_a_layer_diffuses():
    pde = TransformerPDE(8, 2, Chain(5), depth=3, diffusion=0.2, clock=True)
    with torch.no_grad():
        for name, value in pde.named_parameters():
            if "clock" in name:
                value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    found = calibrate.learnt_coefficients(pde)
    for depth in range(4):
        pace = float(pde.clock(float(depth)).detach().exp())
        assert found["diffusivity"]["largest"][depth] == pytest.approx(0.2 * pace, rel=1e-4)
        assert found["diffusivity"]["mean"][depth] == pytest.approx(0.2 * pace, rel=1e-4)
    assert found["times"] == pde.layer_times and len(set(found["diffusivity"]["mean"])) > 1


def test_pretrained_equations_see_fewer_examples_and_are_judged_by_a_probe(run, monkeypatch):
    text = replace(SPEC, teacher=teacher.MINILM)
    assert calibrate.training_size(SPEC, "smoke") > calibrate.training_size(text, "smoke") > 0
    assert Calibration(text).divided is None and Calibration(SPEC).divided == "converged"
    assert Calibration(replace(SPEC, family="full-k1-one-step")).divided == "1"
    assert Calibration(text).calibration(run)["teacher"] is None


def test_a_line_says_the_worst_depth_of_both_ways():
    judged = {"1": {"r2 pooled": [0.9, 0.1234, 0.5]}, "converged": {"r2 pooled": [0.7, 0.8]}}
    assert JOB.line({"judged": judged}) == "pooled R2 0.123 at one step a layer, 0.700 converged"
    assert JOB.line({"judged": judged | {"converged": {"diverged": "at 3"}}}).endswith("nan converged")


def test_judged_is_what_the_whole_teacher_does_whatever_was_seen(run, monkeypatch):
    """An equation of a horizon is judged over all layers, and one of shuffled tokens on shuffled ones."""
    given = []
    monkeypatch.setattr(calibrate, "evaluate", lambda *these: given.append(these) or {})
    calibrate._evaluated(None, replace(SPEC, horizon=2, shuffled=True), run)
    ((_, subject, reference, calibration, ways, labels, probe),) = given
    plain = teacher.evaluation_flows(SPEC.teacher, run)
    wanted = [replace(SPEC, shuffled=True).apply(flow) for flow in plain]
    assert reference.layers == 6 and subject is teacher.cached_teacher(SPEC.teacher, run) and probe is None
    assert torch.equal(reference.states[3], wanted[0].states[3]) and not torch.equal(
        reference.states[3], plain[0].states[3]
    )
    assert torch.equal(calibration.states[3], wanted[1].states[3]) and ways is calibrate.RESOLUTIONS
    assert labels.tolist() == subject.targets("heldout", teacher.HELD["smoke"]).tolist()


def test_a_budgets_equation_says_what_its_own_steps_give(run, monkeypatch):
    asked, reference = [], teacher.evaluation_flows(SPEC.teacher, run)[0]

    def stepped(pde, flow, plan, finer):
        asked.append((pde, plan, finer))
        even = tuple(torch.full_like(a, 1 / 49) for a in flow.attention)
        return replace(flow, attention=even if finer else flow.attention)

    monkeypatch.setattr(calibrate, "stepped", stepped)
    found = calibrate._own_steps("pde", SPEC, run)
    assert asked == [("pde", calibrate.plan_of(SPEC, "smoke"), finer) for finer in (0, 1)]
    assert found[0] == [1.0] * 6
    for layer, value in enumerate(found[1]):
        maps = reference.attention[layer].flatten(2)
        expected = (maps.sum(-1) / maps.norm(dim=-1) / 49).mean()
        assert value == pytest.approx(float(expected), abs=6e-5)
