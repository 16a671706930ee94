"""Timing that the benchmark's peers share."""

import time


def best(work, repeats, enough=float("inf")):
    """Least seconds of several runs of `work`, which is not repeated after `enough` seconds in all."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
        if sum(seconds) > enough:
            break
    return min(seconds)
