"""Independent jobs beside each other: what each of them meets, and what the others see of it."""

import os
import signal
import subprocess
import sys
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


def test_an_interrupt_ends_the_jobs_at_hand_and_begins_no_others(tmp_path):
    (tmp_path / "slow.py").write_text(
        "import pathlib, time\n"
        "def work(item, deadline):\n"
        f"    (pathlib.Path({str(tmp_path)!r}) / f'begun-{{item}}').touch()\n"
        "    time.sleep(600)\n"
    )
    script = "import slow; from pdelens.workers import outcomes; list(outcomes(range(8), slow.work, workers=2))"
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    running = subprocess.Popen(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": paths},
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 120
        while len(list(tmp_path.glob("begun-*"))) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        os.killpg(running.pid, signal.SIGINT)
        assert running.wait(60) != 0
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGKILL)
    assert len(list(tmp_path.glob("begun-*"))) == 2
