import itertools
from dataclasses import asdict

import pytest

from companion.surrogates import laws, specs, store
from companion.surrogates.schedules import right_hand_sides
from companion.teachers import teacher as teachers
from companion.teachers.teacher import PRETRAINED

BOOK = laws.law_specs("book")


def test_no_two_calibrations_have_one_name():
    for scale in ("smoke", "book", "full"):
        names = [spec.name for spec in laws.every_spec(scale)]
        assert len(set(names)) == len(names)


def test_rungs_that_are_compared_differ_in_nothing_but_the_equation_and_the_seed():
    """One law has its recipe and more have theirs; what is solved steps alike, and spends the same right-hand sides."""
    for scale in ("book", "full"):
        for spec in (one for one in laws.law_specs(scale) if one.teacher not in PRETRAINED):
            name = spec.family.removeprefix("laws-").rsplit("-b", 1)[0]
            wanted = laws.ROLLED if name.startswith("k1") else laws.FORCED
            wanted = {"k1-forced": laws.FORCED, "k3-rolled": laws.ROLLED}.get(name, wanted)
            wanted = laws.STEP if name in laws.STEPPED else wanted
            assert {**asdict(spec.plan), "supervision": ""} == {**asdict(wanted), "supervision": ""}, spec.name
            assert spec.plan.supervision == ("states" if "-states" in spec.name else "attention+states")
            once = right_hand_sides(asdict(spec.plan), 6) * spec.plan.batch
            spent, given = spec.steps(scale) * once, spec.budget * specs.BUDGET[scale]
            assert abs(spent - given) <= once / 2, spec.name
    for part in ("method", "entry", "graded", "smooth", "batch", "peak_rate"):
        assert getattr(laws.ROLLED, part) == getattr(laws.FORCED, part)


def test_the_main_rungs_have_five_seeds_and_a_curve_of_doubled_budgets():
    for teacher in laws.TEACHERS:
        for name in ("k1", "k3"):
            found = [s for s in BOOK if s.teacher.startswith(teacher) and s.family.startswith(f"laws-{name}-b")]
            main = [s.seed for s in found if s.budget == laws.MAIN_BUDGET]
            assert sorted(main) == [0, 1, 2, 3, 4], (teacher, name)
            curve = sorted(s.budget for s in found if s.seed == 0 and s.budget < laws.HERO_BUDGET)
            assert [b / a for a, b in itertools.pairwise(curve)] == [2.0] * 3
            control = [s.budget for s in BOOK if s.teacher == f"{teacher}-seed0" and s.family.startswith("laws-blocks")]
            assert sorted(control) == curve, "the control stands beside the curve at every budget"


def test_every_rung_can_be_built_and_has_the_parameters_that_its_name_says():
    image, shares = teachers.teacher_named("image-patch4-seed0"), {}
    for spec in BOOK:
        if spec.teacher == "image-patch4-seed0":
            pde = spec.build(image)
            name = spec.family.removeprefix("laws-").rsplit("-b", 1)[0]
            shares[name] = image.share(sum(value.numel() for value in pde.parameters()))
            assert ("diffusion" in pde.terms) == (name not in ("k1-no-diffusion", "k3-no-diffusion", "blocks"))
            assert (pde.clock is not None) == (
                name in ("k1", "k1-one-step", "k1-no-diffusion", "k1-clock", "k1-forced")
            ), name
    assert shares["k1"] == pytest.approx(0.1675, abs=5e-4)  # counted: the size's column and the clock's six numbers
    for modes in (2, 3, 4, 6):
        assert shares[f"k{modes}"] == pytest.approx(modes * shares["k1-size"], rel=1e-6)
    assert shares["blocks"] < 1.0 < shares["k6"] < 1.02 and shares["k3-states"] == shares["k3"]
    added = [shares[f"rank{rank}"] - shares["k1-size"] for rank in laws.RANKS]
    assert [share / added[0] for share in added] == pytest.approx([float(rank) for rank in laws.RANKS])
    assert shares["k1"] < shares["rank4"] < shares["rank8"] < shares["k2"] < shares["k3"]


def test_committed_rungs_are_the_ladders_own_at_their_budgets_and_beside_their_nulls():
    known = store.law_records()
    listed = {spec.name: spec for spec in BOOK}
    assert known["rungs"] and known["rungs"].keys() <= listed.keys()
    for name, about in known["rungs"].items():
        spec, made = listed[name], about["made"]
        assert made["scale"] == "book" and made["subject"] == spec.teacher and made["seed"] == spec.seed
        assert made["right-hand sides"] == pytest.approx(spec.budget * specs.BUDGET["book"], rel=0.01)
        assert {"device", "precision", "plan", "parameters"} <= made.keys() and len(about["own steps"]) == 2
        assert "nearest neighbours" in known["nulls"][spec.teacher]["attention"]
