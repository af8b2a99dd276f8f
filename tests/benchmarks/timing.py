"""Timing shared by the benchmarks: both sides in turn, and the ratio of neighbours."""

import statistics
import time


def compare_times(what, ours, theirs, against, goal=None, runs=15):
    """Time two calls in turn and print the median of their ratios, which drifts of the machine leave alone."""
    ours(), theirs()
    pairs = [(_seconds(ours), _seconds(theirs)) for _ in range(runs)]
    ratio = statistics.median(a / b for a, b in pairs)
    first, second = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    aim = "" if goal is None else f", goal {goal:g}"
    print(f"\n{what}: {ratio:.2f} x {against} ({first:.1f} ms against {second:.1f} ms{aim})")


def _seconds(function):
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
