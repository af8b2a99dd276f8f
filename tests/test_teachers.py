import pytest
import torch

from pdelens import teachers


@pytest.mark.parametrize("scale", teachers.SCALES)
def test_every_teacher_has_a_name_of_its_own(scale):
    names = [job.name for job in teachers.jobs(scale)]
    assert len(set(names)) == len(names)
    assert all(teachers.job_named(name, scale).name == name for name in names)


def test_all_that_is_asked_for_is_there():
    jobs = teachers.jobs("book")
    for family in ("image-patch4", "image-patch7", "text-classifier", "text-causal", "text-short"):
        assert [job.seed for job in jobs if job.family == family and not job.variant] == [0, 1, 2, 3, 4]
    for family in ("image-patch7", "text-short"):
        found = {job.variant: job.configuration for job in jobs if job.family == family}
        assert {about.activation for about in found.values()} == {"gelu", "relu", "tanh", "linear"}
        assert {about.norm for about in found.values()} == {"layer", "rms", "dyt", "none"}
        assert found["post"].placement == "post" and "random-labels" in found
    for job in jobs:
        about = job.configuration
        assert (about.width, about.layers, about.heads) == (64, 6, 4)


def test_snapshots_are_six_and_of_the_main_teachers_only():
    with_snapshots = [job for job in teachers.jobs("book") if job.snapshots]
    assert [job.name for job in with_snapshots] == [f"{family}-seed0" for family in teachers.MAIN]
    for job in with_snapshots:
        assert len(job.snapshots) == 6 and 0 < min(job.snapshots) and max(job.snapshots) < job.steps


def test_stacks_hold_jobs_of_one_shape_in_order():
    jobs = teachers.jobs("book")
    parts = teachers.stacks(jobs, len(jobs))
    assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in jobs)
    assert [job.name for job in parts[0]] == [f"image-patch4-seed{seed}" for seed in range(5)]
    (twins,) = (part for part in parts if part[0].name == "image-patch7-seed0")
    assert twins[-1].name == "image-patch7-random-labels-seed0" and len(twins) == 6
    assert [len(part) for part in teachers.stacks(jobs[:5], 2)] == [2, 2, 1]


def test_untrained_twin_is_the_same_seeds_beginning():
    job = teachers.job_named("image-patch7-seed2")
    first, again = job.untrained(), job.untrained()
    assert torch.equal(first.head.weight, again.head.weight)


def test_names_choose_teachers():
    found = teachers.chosen(teachers.jobs("book"), "text-causal-seed?,image-patch4-seed[01]")
    assert [job.name for job in found if job.family == "image-patch4"] == ["image-patch4-seed0", "image-patch4-seed1"]
    assert len(found) == 7 and teachers.chosen(teachers.jobs("book"), "audio-*") == ()


def test_unknown_names_are_named():
    with pytest.raises(ValueError, match="no teacher is called 'image'"):
        teachers.job_named("image")
    with pytest.raises(ValueError, match="choose from smoke, book, full"):
        teachers.jobs("huge")
    with pytest.raises(ValueError, match="stack of 0"):
        teachers.stacks(teachers.jobs("smoke"), 0)
