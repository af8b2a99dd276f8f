import itertools
import json
from dataclasses import asdict

import pytest

from companion.surrogates import calibrate, laws, rungs, specs, store
from companion.surrogates.schedules import right_hand_sides
from companion.teachers import teacher as teachers
from companion.teachers.teacher import PRETRAINED

BOOK = rungs.law_specs("book")


def test_no_two_calibrations_have_one_name():
    for scale in ("smoke", "book", "full"):
        names = [spec.name for spec in rungs.every_spec(scale)]
        assert len(set(names)) == len(names)


def test_a_rung_is_found_by_its_name_whether_it_is_listed_or_not():
    """So that what reads a committed equation needn't know what is still to be calibrated."""
    for scale in ("smoke", "book", "full"):
        for spec in rungs.law_specs(scale):
            assert laws.named(spec.name) == spec
    assert laws.named("rung-image-patch4-laws-k3-b16-seed7") == laws.law("k3", "image-patch4", 7, 16)
    for spec in specs.specs_of("book"):
        assert laws.named(spec.name) is None, spec.name
    for wrong in ("k9-b2-seed0", "k3-b2", "k3-seed0", "segments1-states-seed0", "segments1-seed1", "segments9-seed0"):
        assert laws.named(f"rung-minilm-laws-{wrong}") is None, wrong


def test_rungs_that_are_compared_differ_in_nothing_but_the_equation_and_the_seed():
    """One law has its recipe and more have theirs; what is solved steps alike, and spends the same right-hand sides."""
    for scale in ("book", "full"):
        for spec in (one for one in rungs.law_specs(scale) if one.teacher not in PRETRAINED):
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
            for longer in (4, 8):
                assert sorted(s.seed for s in found if s.budget == longer) == [0, 1, 2, 3, 4], (teacher, name)
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


def test_committed_rungs_were_made_by_the_plans_and_equations_that_are_listed():
    listed = {spec.name: spec for spec in BOOK}
    for name, about in store.law_records()["rungs"].items():
        spec, made = listed[name], about["made"]
        wanted = store.rounded(json.loads(json.dumps(asdict(calibrate.plan_of(spec, "book")))))
        assert made["plan"] == wanted, name
        assert made["settings"] == json.loads(json.dumps(dict(spec.equation))), name
        assert made["seen"] == calibrate.training_size(spec, "book")


def test_each_pretrained_model_gets_every_kind_of_law_once():
    found = {teacher: [one for one in BOOK if one.teacher == teacher] for teacher in PRETRAINED}
    names = [one.family.removeprefix("laws-") for one in found[teachers.MINILM]]
    assert names == ["segments1", "segments2", "segments3", "modes3", "recurrent1", "recurrent2", "recurrent3"]
    assert [one.family for one in found[teachers.DINOV2]] == [one.family for one in found[teachers.MINILM]]
    for text, picture in zip(*found.values(), strict=True):
        ours, theirs = dict(text.equation), dict(picture.equation)
        # A post-norm state has one size, so nothing is to be learnt from it; a block as in the literature sees none.
        sized = not text.family.startswith("laws-recurrent")
        assert "normalisation" not in ours and theirs.pop("normalisation", None) == ("layer+size" if sized else None)
        assert ours == theirs and text.plan == picture.plan and text.seed == picture.seed == 0


def test_pretrained_laws_have_no_entry_and_one_law_rolls_out_early():
    for one in (spec for spec in BOOK if spec.teacher in PRETRAINED):
        name = one.family.removeprefix("laws-")
        assert one.plan.entry == () and (one.plan.method == "lie") == name.startswith("recurrent")
        if not name.startswith("recurrent"):
            assert one.plan.graded == ((1, 2),)
            assert (one.plan.coarse > 0) == (name == "segments1") == (one.plan.forced < laws.FORCED.forced)
        assert one.budget < 1 and one.plan.batch < laws.STEP.batch and one.plan.peak_rate < laws.STEP.peak_rate


def test_segments_share_a_law_and_blocks_scale_it():
    for count in (1, 2, 3):
        segment, block = laws.SEGMENTS[f"segments{count}"], laws.BLOCKS[f"recurrent{count}"]
        assert segment == {"temporal_modes": count, "basis": "piecewise"}
        assert block == segment | {"scaled": True, "diffusion": None}


@pytest.mark.parametrize("ending", ["-rolled", "-forced"])
@pytest.mark.parametrize("name", ["k1", "k3"])
def test_another_recipe_can_be_asked_for_by_name(name, ending):
    plan, law = laws.recipe(name + ending), laws.law(name + ending, "image-patch4", 3, 2)
    assert plan == (laws.ROLLED if ending == "-rolled" else laws.FORCED) == law.plan
    assert law.equation == laws.EQUATIONS[name] and law.family == f"laws-{name}{ending}-b2"
    assert law.teacher == "image-patch4-seed3" and law.seed == 3 and law.budget == 2.0


def test_causal_teachers_have_no_diffusion_and_states_alone_are_named():
    assert laws.law("k1", laws.LANGUAGE, 0, 1).equation["diffusion"] is None
    assert "diffusion" not in laws.law("k1", "text-classifier", 0, 1).equation
    one = laws.law("k3", "image-patch4", 0, 2, "states")
    assert one.family == "laws-k3-states-b2" and one.plan == laws.replace(laws.FORCED, supervision="states")


def test_at_full_scale_all_but_curves_and_heroes_have_five_seeds():
    full = rungs.law_specs("full")
    for teacher in laws.TEACHERS:
        for family in ("laws-k2-b2", "laws-k3-one-step-b2", "laws-rank4-b2", "laws-k3-states-b2", "laws-k1-b2"):
            found = [one.seed for one in full if one.family == family and one.teacher.startswith(teacher)]
            assert sorted(found) == [0, 1, 2, 3, 4], (teacher, family)
    assert [one.seed for one in full if one.family == "laws-blocks-b8"] == [0, 0, 0]
    assert len([one for one in BOOK if one.family == "laws-k2-b2"]) == 3


def test_what_decides_most_comes_first_and_the_longest_last():
    budgets = [one.budget for one in BOOK]
    assert [one.family for one in BOOK[-2:]] == ["laws-k3-b32", "laws-k1-b32"] and budgets[-2:] == [32.0, 32.0]
    assert [one.teacher[:5] for one in BOOK[-2:]] == ["image", "text-"]
    assert budgets[:12] == [1.0] * 6 + [2.0] * 6 and set(budgets[-8:-2]) == {8.0}
    assert [one.family for one in BOOK[:3]] == ["laws-k3-b1", "laws-k1-b1", "laws-blocks-b1"]
    language = [one for one in BOOK if one.teacher.startswith(laws.LANGUAGE)]
    several = {(f"laws-{name}-b{b}", seed) for name in ("k1", "k3") for b in (2, 4, 8) for seed in range(5)}
    control = {(f"laws-blocks-b{budget}", 0) for budget in (1, 2, 4, 8)}
    numbers = {(f"laws-{name}-b2", 0) for name in ("k2", "k4", "k6", "rank1", "rank2", "rank4", "rank8")}
    numbers |= {("laws-k3-b1", 0), ("laws-k1-b1", 0)}
    least = {(f"laws-{name}-b{b}", seed) for name in ("k2", "rank4", "rank8") for b in (4, 8) for seed in range(5)}
    assert {(one.family, one.seed) for one in language} == several | control | numbers | least
    assert len(language) == 73
    smoke = [(one.family, one.teacher, one.budget) for one in rungs.law_specs("smoke")]
    assert smoke == [(f"laws-{n}-b1", f"{t}-seed0", 1.0) for n in ("k1", "blocks") for t in laws.TEACHERS]
