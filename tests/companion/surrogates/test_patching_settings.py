"""What else decides an effect: which layers, orders, batches and steps, what is checked and what is not."""

import pytest
import torch
import torch.nn.functional as F
from patched import KINDS, by_hand, captured, classifier, pictures

from companion.surrogates.patching import (
    equation_effects,
    integrate_with_attention,
    substituted_logits,
    substitution_effects,
)
from pdelens.agreement import nulls
from pdelens.lattice import Chain
from pdelens.pde.integrate import integrate
from pdelens.pde.parity import equation_of


def flat(*shape):
    return torch.full(shape, 1 / shape[-1])


@KINDS
@torch.no_grad()
def test_effects_are_of_the_layers_orders_and_batches_that_are_named(make, monkeypatch):
    model, inputs, mask = make()
    maps = nulls.other_input(captured(model, inputs, mask))
    found = substitution_effects(model, inputs, {"other": maps}, mask=mask, layers=[1], batch=3)["other"]
    torch.testing.assert_close(found.logits, by_hand(model, inputs, mask, maps, {1}), atol=1e-5, rtol=0)
    orders = [torch.tensor([1, 2, 3, 0])] * 3
    aligned = [a[:, order] for a, order in zip(maps, orders, strict=True)]
    again = substitution_effects(model, inputs, {"other": aligned}, mask=mask, layers=[1], orders=orders)["other"]
    torch.testing.assert_close(again.logits, found.logits, atol=1e-5, rtol=0)
    sizes, plain = [], model.forward
    monkeypatch.setattr(model, "forward", lambda part, keep: sizes.append(len(part)) or plain(part, keep))
    substitution_effects(model, inputs, {}, mask=mask, batch=3)
    assert sizes == [3, 3, 2]


@torch.no_grad()
def test_an_equations_effects_are_beside_the_transformers_own_answers():
    model, inputs, mask = classifier()
    model = model.double()
    pde = equation_of(model, Chain(9))
    with torch.no_grad():
        for value in pde.parameters():
            value *= 0.7
    flow, labels = captured(model, inputs, mask), torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
    how = {"method": "rk4", "substeps": 2, "depths": [0, 0.5, 1, 2, 3]}
    found = equation_effects(pde, model, inputs, {"teacher": flow}, labels, mask=mask, **how)
    u0, truth = model.embedding(inputs), model(inputs, mask)
    own = integrate(pde, u0, how["depths"], "rk4", 2, mask=mask).states[-1]
    given = integrate_with_attention(pde, u0, flow, "rk4", 2, mask=mask, depths=how["depths"]).states[-1]
    right = float((truth.argmax(-1) == labels).double().mean())
    for name, state in (("own", own), ("teacher", given)):
        logits = model.readout(state, mask)
        torch.testing.assert_close(found[name].logits, logits)
        assert found[name].accuracy == pytest.approx(float((logits.argmax(-1) == labels).double().mean()))
        assert found[name].agreement == pytest.approx(float((logits.argmax(-1) == truth.argmax(-1)).double().mean()))
        assert found[name].kept == pytest.approx(found[name].accuracy / right)
        expected = F.kl_div(logits.log_softmax(-1), truth.softmax(-1), reduction="batchmean")
        assert found[name].divergence == pytest.approx(float(expected), rel=1e-6)
    assert found["own"].divergence > 1e-6


@pytest.mark.parametrize(("excess", "fine"), [(0.5e-4, True), (2e-4, False), (-2e-4, False)])
def test_rows_may_be_off_by_rounding_and_no_more(excess, fine):
    model, inputs, _ = pictures()
    maps = [(1 + excess) * flat(1, 1, 16, 16)] * 3
    if fine:
        substituted_logits(model, inputs, maps)
    else:
        with pytest.raises(ValueError, match="rows summing to"):
            substituted_logits(model, inputs, maps)


def test_only_real_rows_are_looked_at_and_only_layers_that_are_put_in():
    model, inputs, mask = classifier()
    flow = captured(model, inputs, mask)
    maps = [a.clone() for a in flow.attention]
    for a in maps:
        a[5, :, 3:] = 1 / 9  # rows of padding look anywhere
    plain = model(inputs, mask).detach()
    torch.testing.assert_close(substituted_logits(model, inputs, maps, mask=mask), plain, atol=1e-5, rtol=0)
    maps[2] = 5 * maps[2]
    substituted_logits(model, inputs, maps, mask=mask, layers=[0, 1])
    with pytest.raises(ValueError, match=r"attention\[2\] has rows summing to"):
        substituted_logits(model, inputs, maps, mask=mask, layers=[-1])
    with pytest.raises(ValueError, match=r"layers \[0, -4\] were asked for"):
        substituted_logits(model, inputs, maps, mask=mask, layers=[0, -4])
