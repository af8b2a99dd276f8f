"""Runs independent jobs beside each other, on a CPU one for each core: what fails does not stop the rest."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch

from .project import DataError

Item = TypeVar("Item")


def outcomes(
    todo: Sequence[Item],
    work: Callable[..., Any],
    *given: Any,
    workers: int,
    deadline: float | None = None,
    flush_denormal: bool = False,
) -> Iterator[tuple[Item, Any]]:
    """Yield each item with what `work(item, *given, deadline)` returned, as they end.

    None where the `deadline` (as `time.time`) came before its turn, the `RuntimeError` where it ended in one; a
    `DataError`, which all would meet, is raised, and nothing more is begun then, nor after Ctrl-C. With one worker
    everything runs here, in order; else `work` has to be a module's function, and each process takes its share of the
    cores.
    """
    if workers == 1:
        for item in todo:
            yield item, _attempt(work, item, given, deadline)
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_settle, initargs=(threads, flush_denormal)) as pool:
        futures = {pool.submit(_attempt, work, item, given, deadline): item for item in todo}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            # Leaving the pool waits for all that it was given: what has not begun shall not.
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _attempt(work: Callable[..., Any], item: Any, given: tuple[Any, ...], deadline: float | None) -> Any:
    if deadline is not None and time.time() > deadline:
        return None
    try:
        return work(item, *given, deadline)
    except DataError:
        raise
    except RuntimeError as error:
        return error


def _settle(threads: int, flush_denormal: bool) -> None:
    # Ctrl-C reaches every process: here it would only end the job at hand, and the next would begin.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    torch.set_flush_denormal(flush_denormal)
    torch.use_deterministic_algorithms(True, warn_only=True)


def device_name(device: str) -> str:
    """Return what a record calls a device.

    >>> device_name("cpu").startswith("CPU, ")
    True
    """
    return torch.cuda.get_device_name() if device.startswith("cuda") else f"CPU, {torch.get_num_threads()} threads"
