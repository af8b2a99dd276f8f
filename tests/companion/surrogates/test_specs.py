from dataclasses import replace

import pytest
import torch

from companion.surrogates import specs
from companion.surrogates.narrow import NarrowPDE
from companion.teachers import teacher as teachers

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
