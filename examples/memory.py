# SPDX-License-Identifier: BSD-3-Clause
"""How much memory a piece of work needs, as torch's profiler counts it."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def most_held(work: Callable[[], object]) -> int:
    """Return the bytes that tensors made in `work` take at most at one time, on the CPU."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        work()
    held = most = 0
    for event in events.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
