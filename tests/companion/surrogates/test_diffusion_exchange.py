from collections import Counter

import pytest
import torch

from companion.surrogates import diffusion_exchange
from companion.surrogates.patching import Effect, integrate_with_attention, substituted_logits
from companion.surrogates.solution_fields import GRADED, Subject
from companion.teachers.teacher import Teacher
from pdelens.lattice import Grid
from pdelens.models import Configuration, Transformer
from pdelens.pde.parity import equation_of

ORDERS = tuple(torch.tensor(order) for order in ([1, 0], [0, 1], [1, 0], [0, 1], [1, 0], [0, 1]))


@pytest.fixture(scope="module")
def subject():
    """Give a small teacher of pictures whose blocks stand for the calibrated equations."""
    model = Transformer(Configuration(width=8, layers=6, heads=2, side=4, patch=1, outputs=4), seed=0)
    with torch.no_grad():
        for block in model.blocks:
            block.attention.queries_keys_values.weight *= 4  # type: ignore[union-attr]
    lattice = Grid(4, 4)
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (40, 4, 4), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 4, (40,), generator=random)
    splits = {"heldout": slice(20), "calibration": slice(20, 40)}

    def inputs(split, count=None):
        return pictures[splits[split]][:count], labels[splits[split]][:count]

    teacher = Teacher("small", model.eval(), lattice, 8, 2, 6, inputs, orders=ORDERS)
    flow, calibration = (teacher.of(split) for split in ("heldout", "calibration"))
    field = equation_of(model, lattice).requires_grad_(False)
    one = Subject(teacher, flow, calibration, {"refined": field, "one-step": field})
    one.solved["refined"] = flow  # the teacher's own maps, in aligned order
    return one


def test_maps_go_where_they_are_put(subject):
    found = diffusion_exchange.exchange(subject)
    assert set(found.teacher) == {"own", "refined", "one-step", *diffusion_exchange.BLIND}
    assert set(found.equation) == {"own", "teacher", *diffusion_exchange.BLIND}
    torch.testing.assert_close(found.teacher["refined"].logits, found.teacher["own"].logits, atol=1e-4, rtol=1e-4)
    pictures, labels = subject.teacher.inputs("heldout", None)
    uniform = [torch.full((1, 1, 16, 16), 1 / 16)] * 6
    logits = substituted_logits(subject.teacher.model, pictures, uniform)
    torch.testing.assert_close(found.teacher["uniform"].logits, logits, atol=1e-5, rtol=1e-4)
    assert found.teacher["uniform"].accuracy == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))
    flow = integrate_with_attention(
        subject.fields["refined"], subject.flow.states[0], subject.flow, "heun", 5, depths=GRADED
    )
    ours = subject.teacher.readout(flow.states[-1])
    torch.testing.assert_close(found.equation["teacher"].logits, ours, atol=1e-4, rtol=1e-4)


def test_the_best_null_is_the_blind_map_that_keeps_most():
    kept = {"own": 1.0, "refined": 0.9, "mean map": 0.4, "uniform": 0.7, "other input": 0.2}
    effects = {name: Effect(torch.zeros(1), 1.0, 1.0, value, 0.0) for name, value in kept.items()}
    assert diffusion_exchange.Exchange(effects, {}).best_null() == 0.7


def test_a_constant_answer_agrees_with_the_most_frequent_class(subject):
    answers = subject.teacher.readout(subject.flow.states[-1]).argmax(-1).tolist()
    wanted = Counter(answers).most_common(1)[0][1] / len(answers)
    assert diffusion_exchange.constant_answer(subject) == pytest.approx(wanted)
