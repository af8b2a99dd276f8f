import pytest
import torch

from pdelens import rungs, subjects
from pdelens.narrow import NarrowPDE

pytestmark = pytest.mark.usefixtures("one_thread")
BOOK = rungs.rungs("book")


@pytest.fixture(scope="module")
def image():
    return subjects.subject("image-patch4-seed0")


def test_names_are_all_different_and_scales_are_checked():
    names = [rung.name for rung in BOOK]
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        rungs.rungs("tiny")


@pytest.mark.parametrize("teacher", rungs.TEACHERS.values())
def test_main_rungs_come_first_and_in_five_seeds(teacher):
    for family in rungs.MAIN:
        found = [rung for rung in BOOK if rung.family == family and rung.subject.startswith(teacher + "-seed")]
        assert sorted(rung.seed for rung in found) == [0, 1, 2, 3, 4]
        assert {rung.steps("book") for rung in found} == {rungs.STEPS["book"]}
    others = {rung.family for rung in BOOK if rung.subject.startswith(teacher)} - set(rungs.MAIN)
    assert set(rungs.LADDER) - set(rungs.MAIN) <= others
    assert {f"full-k1-{name}" for name in (*rungs.SUPERVISIONS, *rungs.POLICIES)} <= others


@pytest.mark.parametrize("teacher", rungs.TEACHERS.values())
def test_the_autonomous_equation_is_calibrated_for_three_lengths_that_differ_in_nothing_else(teacher):
    known = {rung.name: rung for rung in BOOK}
    short, plain, long = (known[f"rung-{teacher}-full-k1{end}-seed0"] for end in (rungs.SHORT, "", rungs.LONG))
    assert short.plan == plain.plan == long.plan and short.equation == plain.equation == long.equation
    assert [one.steps("book") * 3 for one in (short, plain)] == [one.steps("book") for one in (plain, long)]


def test_every_equation_can_be_built_and_the_autonomous_ones_keep_the_share(image):
    seen = set()
    for rung in BOOK:
        if "image-patch4-seed0" != rung.subject or rung.family in seen:
            continue
        seen.add(rung.family)
        pde = rung.build(image)
        count = sum(value.numel() for value in pde.parameters())
        if rung.family.split("-")[-1] == "k1" or "full-k1" in rung.family:
            assert image.share(count) <= 0.17, rung.family
        if rung.narrow:
            assert isinstance(pde, NarrowPDE)
        frozen = [name for name, value in pde.named_parameters() if not value.requires_grad]
        assert frozen == (["terms.diffusion.raw.coefficients"] if rung.fixed else []), rung.family
        for value in rungs.DIFFUSIVITIES:
            if rung.family == f"fixed-d{value:g}":
                held = pde.terms["diffusion"].diffusivity(0.0)
                torch.testing.assert_close(held, torch.full_like(held, value), rtol=1e-4, atol=0)
    assert len(seen) > 20


def test_full_scale_takes_every_rung_in_five_seeds():
    full = rungs.rungs("full")
    families = {(rung.family, rung.subject.rsplit("-", 1)[0]) for rung in full}
    for family, teacher in families:
        found = [rung for rung in full if (rung.family, rung.subject.rsplit("-", 1)[0]) == (family, teacher)]
        assert sorted({rung.seed for rung in found}) == [0, 1, 2, 3, 4], (family, teacher)
        assert {rung.steps("full") for rung in found} == {rungs.STEPS["full"]}
