import itertools
import json
from dataclasses import asdict, replace

import pytest
import torch

from companion.surrogates import calibrate, specs, store
from companion.surrogates.narrow import NarrowPDE
from companion.teachers import teacher as teachers
from pdelens.pde.equation import TransformerPDE
from pdelens.pde.plan import Plan

BOOK = specs.specs_of("book")


@pytest.fixture(scope="module")
def image():
    return teachers.teacher_named("image-patch4-seed0")


def test_names_are_all_different_and_scales_are_checked():
    names = [spec.name for spec in BOOK]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        specs.specs_of("tiny")


@pytest.mark.parametrize("teacher", specs.TEACHERS.values())
def test_main_rungs_come_first_and_in_five_seeds(teacher):
    for family in specs.MAIN:
        found = [spec for spec in BOOK if spec.family == family and spec.teacher.startswith(teacher + "-seed")]
        assert sorted(spec.seed for spec in found) == [0, 1, 2, 3, 4]
        assert {spec.steps("book") for spec in found} == {specs.STEPS["book"]}
    others = {spec.family for spec in BOOK if spec.teacher.startswith(teacher)} - set(specs.MAIN)
    assert set(specs.EQUATIONS) - set(specs.MAIN) <= others
    assert {f"full-k1-{name}" for name in (*specs.SUPERVISIONS, *specs.SCHEDULES)} <= others


@pytest.mark.parametrize("teacher", specs.TEACHERS.values())
def test_the_autonomous_equation_is_calibrated_for_three_lengths_that_differ_in_nothing_else(teacher):
    known = {spec.name: spec for spec in BOOK}
    short, plain, long = (known[f"rung-{teacher}-full-k1{end}-seed0"] for end in (specs.SHORT, "", specs.LONG))
    assert short.plan == plain.plan == long.plan and short.equation == plain.equation == long.equation
    assert [one.steps("book") * 3 for one in (short, plain)] == [one.steps("book") for one in (plain, long)]


def test_every_equation_can_be_built_and_the_autonomous_ones_keep_the_share(image):
    seen = set()
    for spec in BOOK:
        if "image-patch4-seed0" != spec.teacher or spec.family in seen:
            continue
        seen.add(spec.family)
        pde = spec.build(image)
        count = sum(value.numel() for value in pde.parameters())
        if spec.family.split("-")[-1] == "k1" or "full-k1" in spec.family:
            assert image.share(count) <= 0.17, spec.family
        if spec.narrow:
            assert isinstance(pde, NarrowPDE)
        frozen = [name for name, value in pde.named_parameters() if not value.requires_grad]
        assert frozen == (["terms.diffusion.raw.coefficients"] if spec.fixed else []), spec.family
        for value in specs.DIFFUSIVITIES:
            if spec.family == f"fixed-d{value:g}":
                held = pde.terms["diffusion"].diffusivity(0.0)
                torch.testing.assert_close(held, torch.full_like(held, value), rtol=1e-4, atol=0)
    assert len(seen) > 20


def test_full_scale_takes_every_rung_in_five_seeds():
    full = specs.specs_of("full")
    families = {(spec.family, spec.teacher.rsplit("-", 1)[0]) for spec in full}
    for family, teacher in families:
        found = [spec for spec in full if (spec.family, spec.teacher.rsplit("-", 1)[0]) == (family, teacher)]
        assert sorted({spec.seed for spec in found}) == [0, 1, 2, 3, 4], (family, teacher)
        assert {spec.steps("full") for spec in found} == {specs.STEPS["full"]}


def test_treatments_shorten_and_shuffle_a_flow(image):
    flow, (spec, *_) = image.of("heldout", 4), BOOK
    short = replace(spec, horizon=4).apply(flow)
    assert short.layers == 4 and torch.equal(short.states[4], flow.states[4])
    mixed = replace(spec, shuffled=True).apply(flow)
    for before, after in zip(flow.states, mixed.states, strict=True):
        assert not torch.equal(before, after)
        torch.testing.assert_close(before.sum(-1).sort(1).values, after.sum(-1).sort(1).values, atol=1e-4, rtol=1e-4)
    # Each query still attends to the same tokens: the map moves with them.
    summary = [torch.einsum("bhqk,bkc->bhqc", f.attention[2], f.states[2]).sum(-1) for f in (flow, mixed)]
    torch.testing.assert_close(summary[0].sort(-1).values, summary[1].sort(-1).values)


def test_committed_equations_were_made_by_the_plans_that_are_listed():
    listed = {spec.name: spec for spec in BOOK}
    rungs = store.sweep_records()["rungs"]
    assert len(rungs) > 100
    for name, about in rungs.items():
        made, spec = about["made"], listed[name]
        wanted = json.loads(json.dumps(asdict(calibrate.plan_of(spec, made["scale"]))))
        # Plans of the first records know neither of two settings, which were not there.
        assert {"coarse": 0.0, "smooth": 0.0} | made["plan"] == store.rounded(wanted), name
        assert made["settings"] == json.loads(json.dumps(dict(spec.equation))), name
        assert made["seen"] == calibrate.training_size(spec, made["scale"])


def test_steps_are_two_at_least_and_a_share_or_a_budget_otherwise():
    spec = BOOK[0]
    for scale in ("smoke", "book"):
        assert replace(spec, share=1e-9).steps(scale) == replace(spec, budget=1e-9).steps(scale) == 2
        assert replace(spec, share=0.5).steps(scale) == specs.STEPS[scale] // 2
    twice, once = (replace(spec, budget=budget).steps("book") for budget in (2.0, 1.0))
    assert abs(twice - 2 * once) <= 1


@pytest.mark.parametrize(("teacher", "layers"), [("image-patch4-seed0", 6), ("minilm", 6), ("dinov2", 12)])
def test_a_budget_is_spent_on_right_hand_sides_of_all_layers(teacher, layers):
    plan = Plan(method="heun", substeps=2, batch=5)
    spec = specs.Spec("x", teacher, 0, {}, plan, budget=3.0)
    # Heun's two stages, two sub-steps, five examples.
    assert spec.steps("book") == round(3 * specs.BUDGET["book"] / (2 * 2 * 5 * layers))


def test_costs_are_right_hand_sides_of_a_pictures_tokens():
    plan = Plan(method="lie", substeps=3, batch=4)
    plain = specs.Spec("x", "image-patch4-seed0", 0, {}, plan)
    assert plain.cost("book") == specs.STEPS["book"] * 4 * 3 * 6
    cost = {name: replace(plain, teacher=name).cost("book") for name in ("text-classifier-seed1", "minilm", "dinov2")}
    assert cost["text-classifier-seed1"] == plain.cost("book")
    assert cost["minilm"] == cost["dinov2"] > 20 * plain.cost("book")
    assert replace(plain, teacher="image-patch7-relu-seed0").cost("book") < plain.cost("book") / 3


def test_shuffled_equations_are_those_that_say_so():
    found = [spec for spec in BOOK if spec.family.endswith("-shuffled")]
    assert len(found) == 4 and all(spec.shuffled for spec in found)
    assert not any(spec.shuffled for spec in BOOK if spec not in found)
    for spec in found:
        assert spec.equation == specs.EQUATIONS[spec.family.removesuffix("-shuffled")]
    assert {spec.horizon for spec in BOOK} == {0, 4} and [spec.family for spec in BOOK if spec.horizon] == [
        "full-k1-horizon4"
    ] * 2
    assert {spec.family for spec in BOOK if spec.narrow} == {"narrow-k1"}


def test_a_treated_flow_by_loops(image):
    flow, (spec, *_) = image.of("heldout", 3), BOOK
    flow = replace(flow, mask=torch.arange(49) < torch.tensor([49, 30, 7])[:, None])
    order = torch.randperm(49, generator=torch.Generator().manual_seed(0))
    both = replace(spec, shuffled=True, horizon=2).apply(flow)
    assert both.layers == 2 and len(both.states) == 3 and both.depths.tolist() == [0, 1, 2]
    for layer in range(2):
        assert torch.equal(both.states[layer], torch.stack([flow.states[layer][:, place] for place in order], 1))
        for query in (0, 17, 48):
            for key in (0, 31):
                wanted = flow.attention[layer][:, :, order[query], order[key]]
                assert torch.equal(both.attention[layer][:, :, query, key], wanted)
    assert torch.equal(both.mask, torch.stack([flow.mask[:, place] for place in order], 1))
    assert torch.equal(both.states[2], replace(spec, shuffled=True).apply(flow).states[2])
    assert spec.apply(flow) is flow


def test_an_equation_is_of_its_teachers_sizes_and_its_own_seed(image):
    spec = specs.Spec("x", "image-patch4-seed0", 3, {"hidden": 20}, fixed=("reaction.first.coefficients",))
    odd = replace(image, form="pre", epsilon=0.25)
    pde, other = spec.build(odd), replace(spec, seed=4).build(odd)
    assert pde.depth == image.layers and pde.terms["attention"].heads == 4 and pde.lattice == image.lattice
    assert pde.terms["reaction"].first.coefficients.shape[-2:] == (20, 65)
    assert not torch.equal(pde.terms["attention"].inputs.coefficients, other.terms["attention"].inputs.coefficients)
    plain = TransformerPDE(64, 4, image.lattice, depth=6, hidden=20, seed=3, epsilon=0.25)
    u = torch.randn(2, 49, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(pde.rhs(0.0, u), plain.rhs(0.0, u))
    trained = {name for name, value in pde.named_parameters() if value.requires_grad}
    assert {name for name, _ in pde.named_parameters()} - trained == {"terms.reaction.first.coefficients"}
    post = spec.build(replace(image, form="post"))
    assert post.form == "post"


@pytest.mark.parametrize(
    ("teacher", "modes"), list(itertools.product(("image-patch4-seed0", "text-classifier-seed0"), (1, 3)))
)
def test_depth_dependent_equations_follow_the_teacher_for_longer(teacher, modes):
    plan = specs.refined(teacher, modes)
    assert plan.forced == (0.3 if modes == 1 else 0.7) and plan.method == "heun"
    assert bool(plan.entry) == (teacher.startswith("text") or modes > 1)
    assert len(plan.graded) == (1 if teacher.startswith("text") else 2)


def test_sweeps_go_from_linear_up_shared_and_not():
    found = [spec for spec in BOOK if spec.family.startswith("hidden-")]
    assert {spec.teacher for spec in found} == {"image-patch7-seed0"} and len(found) == 8
    for spec in found:
        _, width, sharing = spec.family.split("-")
        equation = dict(spec.equation)
        assert equation["temporal_modes"] == (1 if sharing == "k1" else 6)
        assert equation.get("basis") == (None if sharing == "k1" else "piecewise")
        assert equation["hidden"] == (64 if width == "linear" else int(width))
        assert equation.get("activation") == ("linear" if width == "linear" else None)
    curved = {
        spec.teacher: spec.equation.get("activation")
        for spec in BOOK
        if "patch7" in spec.teacher and spec.family == "full-k1"
    }
    assert curved == {"image-patch7-seed0": None} | {f"image-patch7-{v}-seed0": v for v in ("linear", "relu", "tanh")}


def test_labels_alone_force_no_states_and_other_supervisions_do():
    known = {spec.family: spec.plan for spec in BOOK if spec.teacher == "image-patch4-seed0"}
    assert known["full-k1-labels"].forced == 0 < known["full-k1-states"].forced == known["full-k1-logits"].forced
    assert known["full-k1-unforced"].forced == 0 < known["full-k1-unforced"].doubled
    assert known["full-k1-undoubled"].doubled == 0 < known["full-k1-undoubled"].forced
