# SPDX-License-Identifier: BSD-3-Clause
"""Calls timed in turns, and what a result file says of the times and of the machine."""

from __future__ import annotations

import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any

import fused_ce
import torch
from devices import Call, Device

Record = dict[str, Any]
Clocks = tuple[float, float, float]


def clocks() -> Clocks:
    """Seconds: busy processors of the whole machine, this process's, and on the wall."""
    # user nice system idle iowait irq softirq steal; the guests after them are in user already.
    fields = [int(f) for f in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    busy = sum(fields) - fields[3] - fields[4]  # steal, what other virtual machines took, counts
    return busy / os.sysconf("SC_CLK_TCK"), time.process_time(), time.perf_counter()


def other_load(before: Clocks, after: Clocks) -> float:
    """The share of the machine that others took between the two."""
    busy, own, wall = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, busy - own) / (wall * (os.cpu_count() or 1))


def interleave(
    device: Device, calls: dict[str, Call], batch: int, seconds: float, fewest: int = 5
) -> dict[str, list[float]]:
    """Every call once a round, in an order that chance gives: none has always the same before it,
    whose memory and caches it would find. At least `fewest` rounds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, chance, start = list(calls), random.Random(0), time.perf_counter()
    while time.perf_counter() - start < seconds or len(times[names[0]]) < fewest:
        chance.shuffle(names)
        for name in names:
            times[name].append(device.sample(calls[name], batch))
    return times


def summary(times: list[float]) -> Record:
    return {
        "median": statistics.median(times),
        "quartiles": statistics.quantiles(times, n=4, method="inclusive")[::2],
        "rounds": len(times),
    }


def write(path: Path, result: Record) -> None:
    """Whole or not at all: whoever is stopped at it leaves the file as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, indent=1))
    unfinished.replace(path)


def machine_of(device: Device) -> Record:
    return {
        **device.describe(),
        "torch": torch.__version__,
        "fused_ce": fused_ce.build_info(),
    }
