import dataclasses
import json

import pytest
import torch

from companion.paths import root
from companion.teachers import recipes


@pytest.mark.parametrize("scale", recipes.SCALES)
def test_every_teacher_has_a_name_of_its_own(scale):
    names = [recipe.name for recipe in recipes.recipes_of(scale)]
    assert len(set(names)) == len(names)
    assert all(recipes.recipe_named(name, scale).name == name for name in names)


def test_all_that_is_asked_for_is_there():
    found = recipes.recipes_of("book")
    for family in ("image-patch4", "image-patch7", "text-classifier", "text-causal", "text-short"):
        assert [recipe.seed for recipe in found if recipe.family == family and not recipe.variant] == [0, 1, 2, 3, 4]
    for family in ("image-patch7", "text-short"):
        variants = {recipe.variant: recipe.configuration for recipe in found if recipe.family == family}
        assert {about.activation for about in variants.values()} == {"gelu", "relu", "tanh", "linear"}
        assert {about.norm for about in variants.values()} == {"layer", "rms", "dyt", "none"}
        assert variants["post"].placement == "post" and "random-labels" in variants
    for recipe in found:
        about = recipe.configuration
        assert (about.width, about.layers, about.heads) == (64, 6, 4)


def test_snapshots_are_six_of_the_main_teachers_first_seed_and_of_the_twins_that_are_followed():
    with_snapshots = [recipe for recipe in recipes.recipes_of("book") if recipe.snapshots]
    main = [recipe.name for recipe in with_snapshots if recipe.family in recipes.MAIN]
    assert main == [f"{family}-seed0" for family in recipes.MAIN]
    cheap = [recipe for recipe in with_snapshots if recipe.family not in recipes.MAIN]
    assert {recipe.variant for recipe in cheap} == {"", "random-labels", "tanh"}
    assert len(cheap) == 2 * (5 + 3 + 3)
    for recipe in with_snapshots:
        assert len(recipe.snapshots) == 6 and 0 < min(recipe.snapshots) and max(recipe.snapshots) < recipe.steps


def test_stacks_hold_jobs_of_one_shape_in_order():
    found = recipes.recipes_of("book")
    parts = recipes.stacks(found, len(found))
    assert sorted(recipe.name for part in parts for recipe in part) == sorted(recipe.name for recipe in found)
    assert [recipe.name for recipe in parts[0]] == [f"image-patch4-seed{seed}" for seed in range(5)]
    (twins,) = (part for part in parts if part[0].name == "image-patch7-seed0")
    assert twins[-1].name == "image-patch7-random-labels-seed2" and len(twins) == 8
    assert [len(part) for part in recipes.stacks(found[:5], 2)] == [2, 2, 1]


def test_untrained_twin_is_the_same_seeds_beginning():
    recipe = recipes.recipe_named("image-patch7-seed2")
    first, again = recipe.untrained(), recipe.untrained()
    assert torch.equal(first.head.weight, again.head.weight)


def test_names_choose_teachers():
    found = recipes.chosen(recipes.recipes_of("book"), "text-causal-seed?,image-patch4-seed[01]")
    assert [recipe.name for recipe in found if recipe.family == "image-patch4"] == [
        "image-patch4-seed0",
        "image-patch4-seed1",
    ]
    assert len(found) == 7 and recipes.chosen(recipes.recipes_of("book"), "audio-*") == ()


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="no teacher is called 'image'"):
        recipes.recipe_named("image")
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        recipes.recipes_of("huge")
    with pytest.raises(ValueError, match="stack of 0"):
        recipes.stacks(recipes.recipes_of("smoke"), 0)


def test_recorded_teachers_were_trained_by_the_recipes_that_are_listed():
    known = json.loads((root() / "data" / "training.json").read_text())["teachers"]
    listed = {recipe.name: recipe for recipe in recipes.recipes_of("book")}
    assert len(set(known) & set(listed)) >= 37
    told = ("steps", "batch", "peak_rate", "weight_decay", "label_smoothing", "word_dropout", "shift", "examples")
    for name in set(known) & set(listed):
        made, recipe = known[name], dataclasses.asdict(listed[name])
        assert {part: made[part] for part in (*told, "random_labels", "seed")} == {
            part: recipe[part] for part in (*told, "random_labels", "seed")
        }, name
        assert made["configuration"] == recipe["configuration"], name
