"""Timing shared by the benchmarks: medians and ratios in one run."""

import statistics
import time


def seconds(function, runs=7):
    """Median wall time of a call, after one that doesn't count."""
    function()
    taken = []
    for _ in range(runs):
        began = time.perf_counter()
        function()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def report(what, ours, theirs, against, goal=None):
    """Print a ratio beside its goal."""
    aim = "" if goal is None else f", goal {goal:g}"
    print(f"\n{what}: {ours / theirs:.2f} x {against} ({ours * 1e3:.1f} ms against {theirs * 1e3:.1f} ms{aim})")
