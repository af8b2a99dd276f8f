"""The common projection against scikit-learn's principal components, strips and paths by hand."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from companion.data import tokens
from companion.dynamics import strips
from pdelens.flow import Flow


@pytest.fixture
def flow():
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    states = [torch.randn(2, 6, 5, generator=generator) * torch.arange(1, 6) * (depth + 1) for depth in range(3)]
    return Flow(states=states, mask=mask)


def rows_of(flow, depth):
    rows = [flow.states[depth][e, t].double().numpy() for e in range(2) for t in range(6) if flow.mask[e, t]]
    return np.array([(row - row.mean()) / np.sqrt(row.var() + 1e-5) for row in rows])


def test_the_directions_are_principal_components_of_normalised_tokens_of_all_depths(flow):
    found = strips.projection(flow)
    pooled = np.concatenate([rows_of(flow, depth) for depth in range(3)])
    wanted = PCA(2).fit(pooled)
    for ours, theirs in zip(found.axes.numpy(), wanted.components_, strict=True):
        assert ours[np.abs(ours).argmax()] > 0
        np.testing.assert_allclose(ours, theirs * np.sign(theirs @ ours), atol=1e-8)
    np.testing.assert_allclose(found.centre, pooled.mean(0))
    for depth in range(3):
        rows = rows_of(flow, depth)
        rows = rows - rows.mean(0)
        shares = (rows @ found.axes.numpy().T) ** 2
        np.testing.assert_allclose(found.share[depth], shares.sum(0) / (rows**2).sum())


def test_a_strip_has_a_row_for_each_real_token_and_a_column_for_each_depth(flow):
    to = strips.projection(flow)
    found = strips.strip(to, flow.states, 1, flow.mask)
    assert found.shape == (4, 3)
    row = rows_of(flow, 2)[6 + 3]
    assert found[3, 2] == pytest.approx(float((row - to.centre.numpy()) @ to.axes[0].numpy()))


def test_a_tokens_length_is_left_out_of_its_place(flow):
    to = strips.projection(flow)
    torch.testing.assert_close(to(100 * flow.states[0]), to(flow.states[0]), atol=1e-4, rtol=1e-4)


def test_paths_are_of_real_tokens_in_the_plane(flow):
    to, one = strips.projection(flow), flow.select([1])
    found = strips.paths(to, one.states, one.mask)
    assert found.shape == (3, 4, 2)
    np.testing.assert_allclose(found[:, :, 0].T, strips.strip(to, flow.states, 1, flow.mask))
    assert strips.TIMES[0] == 0 and strips.TIMES[-1] == 6 and set(range(7)) <= set(strips.TIMES)
    assert list(strips.TIMES) == sorted(set(strips.TIMES))


def test_pieces_read_together_are_the_text():
    coder = tokens.tokenizer()
    numbers = torch.tensor([*coder.encode("a quietly moving film").ids, 0, 0])
    mask = torch.tensor([1] * (len(numbers) - 2) + [0, 0])
    found = strips.pieces(numbers, mask)
    assert len(found) == len(numbers) - 2
    assert "".join(found) == "aquietlymovingfilm"
