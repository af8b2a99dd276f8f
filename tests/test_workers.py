"""Independent jobs beside each other: what each of them meets, and what the others see of it."""

import time

import pytest
import torch

from pdelens.project import DataError
from pdelens.workers import outcomes


def half(item, offset, deadline):
    if item == 3:
        raise RuntimeError("3 has no half.")
    if item == 5:
        raise DataError("5 is in nobody's data.")
    return item / 2 + offset


def settings(item, deadline):
    # A number this small is zero only where denormals are flushed.
    return torch.get_num_threads(), float(torch.tensor([1e-39]) * 0.5) == 0.0


@pytest.mark.parametrize("workers", [1, 2])
def test_one_that_fails_does_not_stop_the_rest(workers):
    found = dict(outcomes([2, 3, 4], half, 10, workers=workers))
    assert found[2] == 11 and found[4] == 12
    assert isinstance(found[3], RuntimeError) and str(found[3]) == "3 has no half."


@pytest.mark.parametrize("workers", [1, 2])
def test_what_all_would_meet_is_raised(workers):
    with pytest.raises(DataError, match="nobody's data"):
        list(outcomes([5], half, 10, workers=workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_what_no_time_is_left_for_yields_none(workers):
    found = outcomes([2, 4], half, 10, workers=workers, deadline=time.time() - 1)
    assert dict(found) == {2: None, 4: None}


@pytest.mark.parametrize("flush", [False, True])
def test_a_process_takes_its_share_of_the_cores_and_flushes_denormals_if_told(flush):
    found = dict(outcomes([1], settings, workers=2, flush_denormal=flush))
    assert found[1][1] == flush and found[1][0] >= 1
