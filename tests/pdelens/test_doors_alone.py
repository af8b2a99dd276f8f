"""Each door by itself: what it lets in, what it gives back, and what it says."""

import numpy as np
import pytest
import torch

from pdelens import _doors


@pytest.mark.parametrize(
    "given",
    [3, 2.5, "01", "", [], [0, 1.5], [0, "1"], {0: 1}, iter([0]), np.array([0, 1])],
    ids=lambda given: type(given).__name__,
)
def test_what_is_no_row_of_layers_is_refused(given):
    with pytest.raises(ValueError, match=r"^layers=.* were given: whole numbers, at least one, are wanted"):
        _doors.layers(given)


@pytest.mark.parametrize("given", [None, [0], (1, 2), range(3), {0, 2}, frozenset({1}), [np.int64(2)]], ids=str)
def test_rows_of_layers_are_let_in(given):
    _doors.layers(given)


def test_whole_numbers_from_the_least_on():
    for value, least in ((1, 1), (0, 0), (-5, None), (np.int64(3), 3)):
        _doors.whole("n", value, least)
    for value, least in ((0, 1), (2, 3), (True, 0), (1.0, 1), (False, None)):
        with pytest.raises(ValueError, match=f"n={value} was given: a whole number"):
            _doors.whole("n", value, least)
    with pytest.raises(ValueError, match="a whole number, at least 4, is wanted"):
        _doors.whole("n", 3, 4)
    with pytest.raises(ValueError, match="a whole number is wanted"):
        _doors.whole("n", 0.5, None)


def test_real_numbers_from_the_least_on_or_above_some_other():
    for value in (0, 0.5, np.float32(2), torch.tensor(1.5), torch.tensor([1])):
        _doors.real("x", value, 0)
    _doors.real("x", -7.0)
    _doors.real("x", 1e-9, above=0)
    for value in (-1e-9, True, "1", float("inf"), float("nan"), torch.ones(2), torch.tensor(1j), None):
        with pytest.raises(ValueError, match="was given: a number not below 0 is wanted"):
            _doors.real("x", value, 0)
    with pytest.raises(ValueError, match="x=0 was given: a number above 0 is wanted"):
        _doors.real("x", 0, above=0)
    with pytest.raises(ValueError, match="x=nan was given: a number is wanted"):
        _doors.real("x", float("nan"))


def test_lists_become_what_torch_makes_of_them_and_arrays_keep_their_type():
    assert _doors.tensor("t", [1.0, 0.1], "numbers").dtype == torch.float32
    assert _doors.tensor("t", (1, 2), "numbers").dtype == torch.int64
    exact = _doors.tensor("t", [1.0, 0.1], "numbers", exact=True)
    assert exact.dtype == torch.float64 and exact[1] == 0.1
    array = np.array([[0.1]])
    made = _doors.tensor("t", array, "numbers")
    assert made.dtype == torch.float64 and made.shape == (1, 1)
    array[0, 0] = 7
    assert made[0, 0] == 0.1, "a copy"
    given = torch.zeros(2)
    assert _doors.tensor("t", given, "numbers") is given
    with pytest.raises(ValueError, match="t has 2 masked entries"):
        _doors.tensor("t", np.ma.masked_greater(np.arange(4), 1), "numbers")
    assert _doors.tensor("t", np.ma.masked_greater(np.arange(4), 9), "numbers").tolist() == [0, 1, 2, 3]
    for given in ("12", b"12", object(), [[1.0], [1.0, 2.0]], None):
        with pytest.raises(TypeError, match="was given: numbers is wanted"):
            _doors.tensor("t", given, "numbers")


def test_a_state_has_its_rank_and_numbers_and_none_of_its_sides_is_nought():
    assert _doors.state("u", torch.zeros(1, 1, 1)).shape == (1, 1, 1)
    assert _doors.state("u", torch.zeros(2, 3), "(tokens, width)", 2).shape == (2, 3)
    for shape in ((2, 3), (1, 2, 3, 4), (2, 0, 3)):
        with pytest.raises(ValueError, match=r"but \(batch, tokens, width\) is wanted, none of them 0"):
            _doors.state("u", torch.zeros(shape))
    for bad in (float("nan"), float("-inf")):
        with pytest.raises(ValueError, match="holds NaN or infinity"):
            _doors.state("u", torch.tensor([[[0.0, bad]]]))
    with pytest.raises(TypeError, match=r"use u\.float\(\)"):
        _doors.state("u", torch.zeros(1, 1, 1, dtype=torch.long))


def test_masks_of_noughts_and_ones_become_booleans():
    assert _doors.mask("mask", None, (1, 3)) is None
    for kind in (torch.bool, torch.long, torch.float32):
        found = _doors.mask("mask", torch.tensor([[1, 0, 1]]).to(kind), (1, 3))
        assert found is not None and found.dtype == torch.bool and found.tolist() == [[True, False, True]]
    for wrong in ([[1, 0, 2]], [[1.0, 0.5, 0.0]], [[1j, 0, 1]]):
        with pytest.raises(ValueError, match="holds other values than 0 and 1"):
            _doors.mask("mask", torch.tensor(wrong), (1, 3))
    with pytest.raises(ValueError, match=r"mask has shape \(3,\), but \(1, 3\) is wanted"):
        _doors.mask("mask", torch.ones(3), (1, 3))


def test_devices_are_named():
    for fine in (None, "cpu", "cuda:0", torch.device("cpu")):
        _doors.device("device", fine)
    for wrong in (True, 0, "nowhere", 1.5):
        with pytest.raises(ValueError, match="a device such as 'cpu' or 'cuda:0' is wanted"):
            _doors.device("device", wrong)


def test_long_values_are_told_by_their_kind():
    with pytest.raises(TypeError, match=r"x='a{58}' was given"):
        _doors.is_a("x", "a" * 58, int, "a number")
    with pytest.raises(TypeError, match="x=a str was given"):
        _doors.is_a("x", "a" * 59, int, "a number")
    with pytest.raises(TypeError, match=r"x=a tensor of shape \(2, 3\) was given"):
        _doors.is_a("x", torch.zeros(2, 3), int, "a number")
    with pytest.raises(TypeError, match=r"x=an array of shape \(4,\) was given"):
        _doors.is_a("x", np.zeros(4), int, "a number")
