"""Profiles of real models beside those that they are held against."""

import torch

from companion.dynamics.pretrained import disordered
from companion.dynamics.together import KINDS, teacher_together, together
from companion.teachers.teacher import teacher_named
from companion.theory.depth_profiles import mixed, profile
from pdelens import flow_of
from pdelens.models import Configuration, Transformer


def test_each_kind_is_what_it_is_called():
    shape = Configuration(width=16, layers=2, heads=2, outputs=3, side=8, patch=4)
    model, other = (Transformer(shape, seed).eval() for seed in (0, 1))
    pictures = torch.randint(0, 255, (5, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    found = together(model, other, pictures, patch=4, seed=2)
    assert tuple(found) == KINDS
    own = flow_of(model, pictures)
    wanted = (own, mixed(own, 2), flow_of(model, disordered(pictures, 2, 4)), flow_of(other, pictures))
    for states, flow in zip(found.values(), wanted, strict=True):
        for ours, theirs in zip(states.states, flow.states, strict=True):
            torch.testing.assert_close(ours, theirs)


def test_a_teacher_is_asked_about_held_out_pictures():
    found = teacher_together("image-patch4-seed0", 6)
    teacher = teacher_named("image-patch4-seed0")
    own = profile(flow_of(teacher.model, teacher.inputs("heldout", 6)[0]))
    torch.testing.assert_close(profile(found["trained"]).cosine, own.cosine)
    twin = flow_of(teacher.untrained().model, teacher.inputs("heldout", 6)[0])
    torch.testing.assert_close(found["random weights"].states[-1], twin.states[-1])
    # What the page says: training gathers the tokens of one picture, and those of others it does not.
    assert float(own.cosine[:, -1].mean()) > 0.7 > 0.3 > float(profile(found["other company"]).cosine[:, -1].mean())
