"""Flows kept in half precision, from a teacher that is a function of its inputs."""

from types import SimpleNamespace

import pytest
import torch

from companion.jobs import Run
from companion.teachers import bank
from companion.teachers.bank import Bank
from pdelens import Chain, Flow


def teacher_of(asked, words):
    """Give a teacher whose example k has states k, k + 1, ... and uneven maps."""

    def flow(given, device):
        rows = given["inputs"] if words else given
        asked.append((len(rows), device))
        states = [(rows.float() + depth)[..., None].expand(-1, -1, 2) for depth in range(3)]
        maps = torch.tensor([[1 / 3, 2 / 3, 0], [0.1, 0.2, 0.7], [0, 0, 1.0]]).expand(len(rows), 2, 3, 3)
        mask = given["mask"] if words else None
        return Flow(states, [maps, maps.flip(-1)], mask=mask, causal=words)

    def inputs(split, count):
        asked.append((split, count))
        rows = torch.arange(count)[:, None].expand(-1, 3).contiguous()
        mask = torch.ones(count, 3, dtype=torch.bool)
        mask[1, 2] = False
        return ({"inputs": rows, "mask": mask} if words else rows), torch.arange(count) % 7

    return SimpleNamespace(inputs=inputs, flow=flow, lattice=Chain(3))


@pytest.mark.parametrize("words", [False, True])
def test_every_example_is_kept_by_parts_with_mask_and_class(words):
    asked = []
    kept = Bank.of(teacher_of(asked, words), "train", 503, "cpu")
    assert asked == [("train", 503), (250, "cpu"), (250, "cpu"), (3, "cpu")]
    assert kept.states.dtype == kept.attention.dtype == torch.float16 and kept.causal == words
    flow = kept.flow(torch.tensor([0, 1, 251, 502]))
    assert flow.states[2][:, 1, 0].tolist() == [2, 3, 253, 504] and len(flow.states) == 3
    assert flow.lattice == Chain(3) and flow.causal == words and flow.states[0].dtype == torch.float32
    assert flow.mask[1].tolist() == [True, True, not words] and bool(flow.mask[[0, 2, 3]].all())
    torch.testing.assert_close(flow.attention[1][3, 1, 0], torch.tensor([0, 2 / 3, 1 / 3]), atol=1e-3, rtol=0)
    torch.testing.assert_close(flow.attention[0].sum(-1), torch.ones(4, 2, 3), atol=1e-6, rtol=0)
    assert kept.labels.tolist() == [k % 7 for k in range(503)]


def test_batches_are_drawn_with_replacement_and_their_own_classes():
    kept = Bank.of(teacher_of([], False), "train", 20)
    flow, labels = kept.draw(torch.Generator().manual_seed(0), 200)
    examples = flow.states[0][:, 0, 0].long()
    assert torch.equal(labels, examples % 7) and sorted(examples.unique().tolist()) == list(range(20))
    wanted = torch.randint(0, 20, (200,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(examples, wanted)


def test_rows_of_padding_may_hold_nothing():
    nothing = torch.zeros(1, 1, 2, 3, 3)
    nothing[..., :2, :2] = 0.5
    mask = torch.tensor([[True, True, False]])
    kept = Bank(torch.zeros(1, 3, 3, 2), nothing.transpose(1, 2), mask, torch.zeros(1), Chain(3))
    assert not kept.flow(slice(None)).attention[0][0, 0, 2].any()


def test_a_teachers_bank_is_of_its_training_examples_on_the_runs_device(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(bank, "cached_teacher", lambda name, run: asked.append((name, run)) or "teacher")
    monkeypatch.setattr(Bank, "of", lambda *given: asked.append(given) or "bank")
    run = Run("smoke", tmp_path, "meta")
    bank.cached_bank.cache_clear()
    assert bank.cached_bank("x", run, 9) == bank.cached_bank("x", run, 9) == "bank"
    assert asked == [("x", run), ("teacher", "train", 9, "meta")]
    bank.cached_bank.cache_clear()
