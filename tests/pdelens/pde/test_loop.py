import math

import pytest
import torch

from pdelens.pde import loop as loops
from pdelens.pde.checkpoints import forget, generator_for, restore, store
from pdelens.pde.loop import Loop, one_cycle


def line(rate=0.1):
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    return model, torch.optim.Adam(model.parameters(), rate)


def made(path=None, steps=6, job=None, **settings):
    model, optimizer = line()
    return Loop(model, optimizer, job or {"name": "line"}, steps, 0.1, checkpoint=path, **settings)


def step(loop):
    loop.descend(loop.model(torch.ones(3, 2)).square().sum())


def test_the_rate_rises_over_a_tenth_and_falls_by_half_a_cosine():
    rates = [one_cycle(2.0, step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([1 + math.cos(math.pi * (step - 10) / 90) for step in range(10, 100)])
    assert rates[55] == pytest.approx(1.0) and 0 < rates[99] < 1e-3
    assert one_cycle(2.0, 0, 5) == 2.0 and one_cycle(2.0, 0, 1) == 2.0 and one_cycle(2.0, 3, 5) == pytest.approx(1.0)
    assert [one_cycle(3.0, step, 20) for step in (0, 1, 2)] == pytest.approx([1.5, 3.0, 3.0])


def test_every_step_has_its_rate_and_number():
    loop, seen = made(steps=12), []
    for number in loop:
        seen.append((number, loop.optimizer.param_groups[0]["lr"]))
        step(loop)
    assert seen == [(number, one_cycle(0.1, number, 12)) for number in range(12)]


def test_seconds_are_what_the_clock_says_and_go_on_after_a_pause(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(loops.time, "process_time", lambda: now[0])
    loop = made(tmp_path / "c")
    for passed, whole in ((2.0, 2.0), (0.5, 2.5)):
        now[0] += passed
        loop.keep()
        assert loop.about["seconds"] == whole
    now[0] = 7.0  # another process, another clock
    again = made(tmp_path / "c")
    now[0] += 4.0
    again.keep()
    assert again.about["seconds"] == 6.5 and made().about["seconds"] == 0


def test_stopped_is_after_this_step_and_resumed_is_where_it_was(tmp_path):
    whole, seen = made(), []
    for number in whole:
        seen.append(number)
        step(whole)
    first = made(tmp_path / "c")
    for number in first:
        step(first)
        if number == 2:
            first.keep({"best": torch.arange(3.0)})
            first.stop()
    assert first.about["step"] == 3
    second = made(tmp_path / "c")
    assert second.began == 3 and second.extra["best"].tolist() == [0, 1, 2]
    rest = []
    for number in second:
        rest.append(number)
        step(second)
    assert rest == [3, 4, 5] and seen == [0, 1, 2, 3, 4, 5]
    for ours, theirs in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_due_is_every_so_many_steps_and_at_the_end():
    loop = made(steps=7)
    found = []
    for _ in loop:
        step(loop)
        found += [loop.about["step"]] * loop.due(3)
    assert found == [3, 6, 7]


def test_gradients_are_those_of_the_last_loss_and_clipped_before_the_step():
    model = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 4.0]]))
    loop = Loop(model, torch.optim.SGD(model.parameters(), 1.0), {}, 10, 1.0)
    for _ in range(2):
        before = model.weight.detach().clone()
        loop.optimizer.param_groups[0]["lr"] = 0.1
        loop.descend(model.weight.square().sum() / 2, lambda: torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        torch.testing.assert_close(model.weight.detach(), before - 0.1 * before / before.norm())


@pytest.mark.parametrize("keep_before", [False, True, None])
def test_the_checkpoint_before_is_kept_where_asked_for_and_used_where_the_newest_is_torn(tmp_path, keep_before):
    path, settings = (
        tmp_path / "deep" / "er" / "c.safetensors",
        {} if keep_before is None else {"keep_before": keep_before},
    )
    model, optimizer = line()
    for number in (1, 2):
        with torch.no_grad():
            model.bias.fill_(number)
        store(path, {"job": {"n": [1]}, "step": number}, model, optimizer, {"x": torch.tensor(number)}, **settings)
    assert (
        sorted(each.name for each in path.parent.iterdir())
        == [path.name, f"{path.name}.before"][: 1 + bool(keep_before)]
    )
    about, extra = restore(path, {"n": (1,)}, *line()) or pytest.fail("a whole checkpoint")
    assert about["step"] == 2 and int(extra["x"]) == 2
    path.write_bytes(path.read_bytes()[:-3])
    fresh = line()
    found = restore(path, {"n": [1]}, *fresh)
    if not keep_before:
        assert found is None
    else:
        assert found is not None and found[0]["step"] == 1 and fresh[0].bias.tolist() == [1]
    forget(path)
    assert not list(path.parent.iterdir())
    forget(path)


@pytest.mark.parametrize("keep_before", [False, True])
def test_a_loop_keeps_the_checkpoint_before_only_where_asked_for(tmp_path, keep_before):
    loop = made(tmp_path / "c", **({"keep_before": True} if keep_before else {}))
    for _ in range(2):
        loop.keep()
    assert (tmp_path / "c.before").exists() is keep_before


def test_another_jobs_checkpoint_is_left_alone(tmp_path, capfd):
    made(tmp_path / "c").keep()
    other = made(tmp_path / "c", job={"name": "other"})
    assert other.about == {"job": {"name": "other"}, "step": 0, "seconds": 0.0} and other.extra == {}
    assert "is of another job: starting afresh" in capfd.readouterr().err


def test_streams_of_a_seed_are_apart_and_come_again():
    drawn = {
        (seed, stream): tuple(torch.randint(0, 1000, (4,), generator=generator_for(seed, stream)).tolist())
        for seed in (0, 1, 11)
        for stream in (0, 1, 11)
    }
    assert len(set(drawn.values())) == 9
    again = torch.randint(0, 1000, (4,), generator=generator_for(11, 1))
    assert tuple(again.tolist()) == drawn[11, 1]
