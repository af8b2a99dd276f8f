import itertools

import pytest
import torch

from companion.theory import cosine
from pdelens import Flow, compare
from pdelens.agreement import measures, nulls


def flow_of(attention, seed, **kwargs):
    return Flow(attention=[attention(seed=100 * seed + layer, **kwargs) for layer in range(3)])


@pytest.fixture
def teacher():
    """A Flow with habits: each head has a mean map, and each example its own departure from it."""
    generator = torch.Generator().manual_seed(0)
    habits = 1.5 * torch.randn(3, 1, 4, 9, 9, generator=generator)
    logits = habits + torch.randn(3, 200, 4, 9, 9, generator=generator)
    flow = Flow(attention=list(torch.softmax(logits, -1)))
    return flow.select(slice(0, 120)), flow.select(slice(120, None))


def test_every_null_is_a_row_stochastic_map_without_knowledge(teacher):
    calibration, heldout = teacher
    twin = Flow(attention=[torch.softmax(torch.randn(80, 4, 9, 9), -1) for _ in range(3)])
    for name, maps in nulls.attention_nulls(heldout, calibration, twin).items():
        assert len(maps) == 3, name
        for layer in maps:
            assert torch.allclose(layer.sum(-1), torch.ones(()), atol=1e-5), name


def test_power_right_maps_pass_and_wrong_maps_fail(teacher):
    calibration, heldout = teacher
    given = nulls.attention_nulls(heldout, calibration)
    right = compare(nulls.perturbed(heldout, 0.05), heldout, given, calibration)
    wrong = compare(nulls.other_input(heldout), heldout, given, calibration)
    assert right.headline() > 0.99 and right.headline("centred cosine") > 0.98 and right.skill().min() > 0.95
    assert abs(wrong.headline("centred cosine")) < 0.05 and wrong.skill().max() < 0.05
    # The wrong maps have the right mean and the right norm, so their raw cosine is not small.
    assert wrong.headline() > 0.4


def test_mean_map_beats_the_others_and_centres_to_nothing(teacher):
    calibration, heldout = teacher
    report = compare(heldout, heldout, nulls.attention_nulls(heldout, calibration), calibration)
    scores = {name: null.headline() for name, null in report.nulls.items()}
    assert max(scores, key=scores.get) == "mean map"
    assert report.nulls["mean map"].headline("centred cosine") == 0


def test_square_law_holds_for_any_attention(teacher):
    calibration, heldout = teacher
    report = compare(heldout, heldout, nulls.attention_nulls(heldout, calibration), calibration)
    square = report.nulls["mean map"].per_head() ** 2
    assert abs(square - report.nulls["other input"].per_head()).max() < 0.03


def test_nulls_respect_padding_and_causality(attention):
    mask = torch.ones(6, 7, dtype=torch.bool)
    mask[:3, 5:] = False
    maps = attention().tril() * mask[:, None, None, :]
    maps = maps / maps.sum(-1, keepdim=True)
    flow = Flow(attention=[maps, maps], mask=mask, causal=True)
    for name, layers in nulls.attention_nulls(flow, flow).items():
        real = (layers[0] * torch.ones_like(maps)).transpose(1, 2)[mask]
        assert torch.allclose(real.sum(-1), torch.ones(()), atol=1e-5), name
        assert float((layers[0] * ~flow.allowed()).abs().max()) == 0, name
    uniform = nulls.uniform(flow)[0][4, 0]
    assert torch.allclose(uniform[2, :4], torch.tensor([1 / 3, 1 / 3, 1 / 3, 0]))


def test_shuffles_leave_nothing_in_place(attention):
    flow = flow_of(attention, 1)
    for seed in range(20):
        assert all(a is not b for a, b in zip(nulls.shuffled_layers(flow, seed), flow.attention, strict=True))
        for maps, own in zip(nulls.other_input(flow, seed), flow.attention, strict=True):
            assert not bool((maps == own).flatten(1).all(1).any())


def test_affine_null_finds_an_affine_flow_and_identity_a_still_one():
    generator = torch.Generator().manual_seed(0)
    matrix = torch.eye(4) + 0.3 * torch.randn(4, 4, generator=generator)
    states = [torch.randn(60, 5, 4, generator=generator)]
    states.append(states[0] @ matrix + 0.5)
    states.append(states[1] @ matrix - 1)
    flow = Flow(states=states)
    found = nulls.state_nulls(flow.select(slice(30, None)), flow.select(slice(0, 30)))
    for kind in ("affine, one step", "affine, rolled out"):
        for ours, theirs in zip(found[kind], states, strict=True):
            assert torch.allclose(ours, theirs[30:], atol=1e-3)
    assert torch.equal(found["identity, one step"][2], states[1][30:])
    assert torch.equal(found["identity, rolled out"][2], states[0][30:])


@pytest.fixture
def padded():
    """Two Flows of one model with garbage in the padding, and features of their inputs."""
    generator = torch.Generator().manual_seed(3)

    def flow(examples, shortest):
        lengths = torch.randint(shortest, 7, (examples,), generator=generator)
        mask = torch.arange(6) < lengths[:, None]
        maps = torch.rand(2, examples, 2, 6, 6, generator=generator).double() * mask[:, None, None, :]
        maps = maps / maps.sum(-1, keepdim=True)
        maps = torch.where(mask[:, None, :, None], maps, 7.0)  # rows of padding may hold anything
        states = torch.randn(3, examples, 6, 4, generator=generator).double()
        states = torch.where(mask[..., None], states, 1e3)
        return Flow(list(states), list(maps), mask)

    known, held = flow(20, 2), flow(9, 5)
    features = [torch.randn(n, 3, 2, generator=generator) for n in (9, 20)]
    return known, held, features


def test_nearest_inputs_are_those_of_a_plain_search(padded):
    _, _, (inputs, known) = padded
    found = nulls.nearest_inputs(inputs, known, 4)
    for example, chosen in zip(inputs, found.tolist(), strict=True):
        distances = [float((example - other).square().sum()) for other in known]
        assert chosen == sorted(range(20), key=distances.__getitem__)[:4]
    with pytest.raises(ValueError, match="3 calibration examples were given, but 5 neighbours"):
        nulls.nearest_inputs(inputs, known[:3])


def test_a_look_up_averages_the_neighbours_rows_that_are_there(padded):
    known, held, (inputs, features) = padded
    nearest = nulls.nearest_inputs(inputs, features, 3)
    maps, states = nulls.nearest_maps(known, nearest, held), nulls.nearest_states(known, nearest)
    behind = nulls.mean_map(known)
    alone = 0
    for example in range(held.examples):
        length = int(held.mask[example].sum())
        for row in range(length):
            there = [n for n in nearest[example].tolist() if bool(known.mask[n, row])]
            alone += not there
            for layer in range(2):
                rows = [known.attention[layer][n, 1, row, :length] for n in there] or [
                    behind[layer][0, 1, row, :length]
                ]
                expected = sum(rows) / len(rows)
                found = maps[layer][example, 1, row]
                assert torch.allclose(found[:length], expected / expected.sum()) and not found[length:].any()
            if there:
                expected = sum(known.states[2][n, row] for n in there) / len(there)
                assert torch.allclose(states[2][example, row], expected)
            else:
                assert torch.allclose(states[2][example, row], nulls.mean_states(known)[2][row])
    assert alone, "a row that no neighbour has must occur"


def test_a_look_up_finds_a_model_that_is_one():
    """Maps that are a function of the nearest input's number are found exactly, others not at all."""
    generator = torch.Generator().manual_seed(0)
    table = torch.softmax(2 * torch.randn(10, 2, 6, 6, generator=generator), -1)
    kind = torch.arange(200) % 10
    flow = Flow(attention=[table[kind], table[kind].flip(1)])
    reference, calibration = flow.select(slice(0, 100)), flow.select(slice(100, None))
    nearest = nulls.nearest_inputs(kind[:100, None], kind[100:, None])
    given = nulls.attention_nulls(reference, calibration, nearest=nearest)
    report = compare(reference, reference, given)
    assert report.nulls["nearest neighbours"].headline() == pytest.approx(1.0, abs=1e-5)
    wrong = nulls.nearest_maps(calibration, (nearest + 1) % 100, reference)
    assert compare(wrong, reference).headline() < 0.6


def test_perturbed_maps_follow_the_gaussian_law():
    flat = Flow(attention=[torch.full((40, 2, 49, 49), 1 / 49)])
    score = measures.cosine(nulls.perturbed(flat, 0.2)[0], flat.attention[0]).mean()
    assert float(score) == pytest.approx(float(cosine.uniform_law(0.2)), abs=2e-3)


def test_too_few_to_shuffle_is_named(attention):
    one = Flow(attention=[attention(batch=1)])
    with pytest.raises(ValueError, match="at least two"):
        nulls.other_input(one)
    with pytest.raises(ValueError, match="at least two"):
        nulls.shuffled_layers(one)


def test_two_are_enough_to_shuffle(attention):
    two = Flow(attention=[attention(batch=2, seed=1), attention(batch=2, seed=2)])
    for maps, own in zip(nulls.other_input(two), two.attention, strict=True):
        torch.testing.assert_close(maps, own.flip(0))
    assert all(a is b for a, b in zip(nulls.shuffled_layers(two), two.attention[::-1], strict=True))


def test_a_null_by_itself_is_the_one_among_all(attention):
    flow = Flow(attention=[attention(seed=layer) for layer in range(6)])
    for name, alone in (("other input", nulls.other_input), ("shuffled layers", nulls.shuffled_layers)):
        every = [nulls.attention_nulls(flow, flow, seed=seed)[name] for seed in (0, 1)]
        for number in range(2):
            assert all(torch.equal(a, b) for a, b in zip(alone(flow, number), every[number], strict=True))
        usual = nulls.attention_nulls(flow, flow)[name]
        assert all(torch.equal(a, b) for a, b in zip(alone(flow), usual, strict=True))
        assert any(not torch.equal(a, b) for a, b in zip(*every, strict=True))


def test_a_shuffle_is_one_cycle_through_all():
    for count, seed in itertools.product((2, 3, 7), range(5)):
        order, place, seen = nulls._derangement(count, seed).tolist(), 0, []
        for _ in range(count):
            place = order[place]
            seen.append(place)
        assert sorted(seen) == list(range(count)) and place == 0


def test_noise_on_every_logit_keeps_rows_and_what_is_hidden(attention):
    past = attention().tril() / attention().tril().sum(-1, keepdim=True)
    flow = Flow(attention=[past, past], causal=True)
    found = nulls.perturbed(flow, 0.3)
    for maps in found:
        torch.testing.assert_close(maps.sum(-1), torch.ones(6, 3, 7))
        assert not maps.triu(1).any()
    assert not torch.equal(found[0], found[1])
    # What is left of the logits' change, row by row, is noise of that sd less its own mean.
    moved = (found[0] / past).log()[..., 6, :].flatten(0, 1)
    assert float((moved - moved.mean(-1, keepdim=True)).square().sum(-1).mean() / 6) ** 0.5 == pytest.approx(
        0.3, rel=0.2
    )
    for maps, own in zip(nulls.perturbed(flow, 0.0), flow.attention, strict=True):
        torch.testing.assert_close(maps, own)


def test_the_mean_map_is_over_the_examples_that_have_the_row(padded):
    known, _, _ = padded
    found = nulls.mean_map(known)[1]
    for row in range(6):
        there = [known.attention[1][n, 1, row] for n in range(20) if bool(known.mask[n, row])]
        torch.testing.assert_close(found[0, 1, row], sum(there) / len(there))


def test_another_inputs_missing_rows_are_uniform(padded):
    known, held, _ = padded
    missing = 0
    for flow in (known, held):
        order = nulls._derangement(flow.examples, 0).tolist()
        for layer, found in enumerate(nulls.other_input(flow)):
            for example, other in enumerate(order):
                length = int(flow.mask[example].sum())
                for row in range(length):
                    kept = flow.attention[layer][other, 1, row, :length]
                    even = not bool(flow.mask[other, row])
                    wanted = torch.full_like(kept, 1 / length) if even else kept / kept.sum()
                    torch.testing.assert_close(found[example, 1, row, :length], wanted)
                    missing += even and length == 6
    assert missing, "a whole example beside a shorter one must occur"


def test_one_layer_has_a_mean_map_too(padded):
    known, held, _ = padded
    first = [Flow(attention=flow.attention[:1], mask=flow.mask) for flow in (known, held)]
    assert torch.equal(nulls.mean_map(*first)[0], nulls.mean_map(known, held)[0])


def test_affine_nulls_are_least_squares_over_real_tokens():
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(40, 5, 3, generator=generator).double() for _ in range(3)]
    mask = torch.arange(5) < (2 + torch.arange(40) % 4)[:, None]
    states = [torch.where(mask[..., None], state, 50.0) for state in states]
    flow = Flow(states, mask=mask)
    found = nulls.state_nulls(flow, flow)
    moved = states[0]
    for layer in range(2):
        design = torch.cat([states[layer][mask], torch.ones(int(mask.sum()), 1, dtype=torch.float64)], 1)
        best = torch.linalg.lstsq(design, states[layer + 1][mask]).solution
        step = states[layer] @ best[:-1] + best[-1]
        torch.testing.assert_close(found["affine, one step"][layer + 1][mask], step[mask], atol=1e-6, rtol=1e-6)
        moved = moved @ best[:-1] + best[-1]
        torch.testing.assert_close(found["affine, rolled out"][layer + 1][mask], moved[mask], atol=1e-6, rtol=1e-6)


def test_means_of_rows_that_one_example_has_are_its_own():
    generator = torch.Generator().manual_seed(0)
    mask = torch.arange(4) < torch.tensor([[1], [2], [3]])
    maps = torch.softmax(torch.randn(3, 2, 4, 4, generator=generator), -1)
    states = torch.randn(3, 4, 5, generator=generator)
    flow = Flow([states, states], [maps], mask)
    for row, there in enumerate(([0, 1, 2], [1, 2], [2], [])):
        wanted = states[there, row].mean(0) if there else torch.zeros(5)
        torch.testing.assert_close(nulls.mean_states(flow)[1][row], wanted)
        wanted = maps[there, :, row].mean(0) if there else torch.zeros(2, 4)
        torch.testing.assert_close(nulls.mean_map(flow)[0][0, :, row], wanted)


def test_uniform_nulls_spread_over_each_layers_own_keys(attention):
    whole = torch.ones(6, 1, 7, 7, dtype=torch.bool)
    visible = [whole, whole.tril(), whole.triu()]
    maps = [seen / seen.sum(-1, keepdim=True) for seen in visible]
    for found, wanted in zip(nulls.uniform(Flow(attention=maps, visible=visible)), maps, strict=True):
        torch.testing.assert_close(found, wanted)
    causal = nulls.uniform(Flow(attention=[maps[1]] * 2, causal=True))
    assert len(causal) == 2 and all(torch.equal(found, maps[1]) for found in causal)


def test_the_best_affine_map_of_whole_batches_is_found():
    generator = torch.Generator().manual_seed(0)
    before, matrix, bias = (torch.randn(*shape, generator=generator) for shape in ((4, 5, 3), (3, 3), (3,)))
    found, shift = nulls._least_squares(before, before @ matrix + bias, None)
    torch.testing.assert_close(found, matrix, atol=1e-5, rtol=0)
    torch.testing.assert_close(shift, bias, atol=1e-5, rtol=0)
