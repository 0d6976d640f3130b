# SPDX-License-Identifier: BSD-3-Clause
"""What a loss whose classes are shared out costs on a network: bytes and time, on paper.

A step of a collective takes `latency` and what it sends takes its bytes over `bandwidth`, the
textbook's alpha and beta. Every way is a list of collectives; backward adds none to any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from rich.console import Console
from rich.table import Table


class Network(NamedTuple):
    name: str
    latency: float  # seconds a step
    bandwidth: float  # bytes a second that a process sends, while it receives as many


# Bandwidths are those of public data sheets: NVIDIA H100, 900 GB/s, of which a half is sent; NDR,
# 400 Gb/s a port; 100 Gb/s. Latencies are assumptions, of the order of those that NCCL chooses its
# algorithms by (src/graph/tuning.cc: rings, 0.5 to 3.4 µs on NVLink, 2.7 to 9.6 on a network); that
# of Ethernet is a guess for TCP.
NETWORKS = [
    Network("NVLink 4", 2e-6, 450e9),
    Network("InfiniBand NDR", 5e-6, 50e9),
    Network("100 Gb Ethernet", 30e-6, 12.5e9),
]
H100_MEMORY = 3.35e12  # bytes a second, of its data sheet


class Cost(NamedTuple):
    steps: float
    sent: float  # bytes, by each process

    def time(self, network: Network) -> float:
        return self.steps * network.latency + self.sent / network.bandwidth


def ring_gather(processes: int, size: float) -> Cost:
    """Everybody passes on what came, until everybody has the `size` bytes of all."""
    return Cost(processes - 1, (processes - 1) * size)


def doubling_gather(processes: int, size: float) -> Cost:
    """The same bytes, twice as many in each step."""
    return Cost(math.ceil(math.log2(processes)), (processes - 1) * size)


def ring_reduce(processes: int, size: float) -> Cost:
    """A part of the numbers goes around and is added up, and then around again."""
    return Cost(2 * (processes - 1), 2 * (processes - 1) / processes * size)


def tree_reduce(processes: int, size: float) -> Cost:
    """Up a tree and down again, in so many pieces that all links are at work."""
    return Cost(2 * math.ceil(math.log2(processes)), 2 * size)


Collective = Callable[[int, float], Cost]
REDUCES: list[Collective] = [ring_reduce, tree_reduce]
RING: list[Collective] = [ring_gather]
GATHERS: list[Collective] = [ring_gather, doubling_gather]


class Way(NamedTuple):
    """Collectives: the algorithms that there are for each, and the bytes a row handed to it."""

    collectives: list[tuple[list[Collective], float]]

    def handed(self) -> float:
        return sum(size for _, size in self.collectives)

    def on_ring(self, processes: int) -> float:
        """Bytes a row that each process sends, where all of it goes by rings: as gloo does it."""
        return sum(a[0](processes, size).sent for a, size in self.collectives)

    def time(self, processes: int, rows: int, network: Network) -> float:
        return sum(
            min(algorithm(processes, rows * size).time(network) for algorithm in algorithms)
            for algorithms, size in self.collectives
        )


# Of the loss alone. With entropy and prediction: a gather of 40, or reductions of 8 and 24.
GATHER = Way([(GATHERS, 24)])
RING_GATHER = Way([(RING, 24)])
GATHER_WITH_STATISTICS = Way([(GATHERS, 40)])
REDUCE = Way([(REDUCES, 8), (REDUCES, 16)])
REDUCE_WITH_STATISTICS = Way([(REDUCES, 8), (REDUCES, 24)])
THREE = Way([(REDUCES, 4)] * 3)  # Megatron, loss_parallel: floats
THREE_OF_HALF = Way([(REDUCES, 2), (REDUCES, 4), (REDUCES, 4)])  # loss_parallel of half types


def logits(classes: int, processes: int, item: int) -> Way:
    """A gather of all logits."""
    return Way([(GATHERS, classes / processes * item)])


def reduces(processes: int, rows: int, handed: int = 24) -> bool:
    """Whether the library takes two reductions (csrc/parallel/whole.cpp)."""
    return processes > 2 and processes * rows * handed > 8 << 20


def as_time(seconds: float) -> str:
    """With two digits: the model has no more."""
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= unit or name == "µs":
            value = seconds / unit
            return f"{value:.2g} {name}" if value < 99.5 else f"{round(value, -1):.0f} {name}"
    raise AssertionError


def crossover(processes: int, network: Network, gather: Way) -> float:
    """Rows from which on two reductions are faster than the gather; infinity: none."""
    for power in range(80):
        rows = 2 ** (power / 2)
        if REDUCE.time(processes, round(rows), network) < gather.time(
            processes, round(rows), network
        ):
            return rows
    return math.inf


def table(classes: int, item: int, processes: list[int], rows: list[int]) -> Table:
    result = Table(
        title=f"time of the exchange, model; {classes:,} classes, logits of {item} bytes"
    )
    result.add_column("network", no_wrap=True)
    for heading in ("P", "rows", "ours: gather", "(by a ring)", "ours: reductions"):
        result.add_column(heading, justify="right")
    result.add_column("the library takes")
    for heading in ("three reductions", "gather of logits", "H100 reads, writes"):
        result.add_column(heading, justify="right")
    for network in NETWORKS:
        for p in processes:
            for n in rows:
                memory = 3 * n * classes / p * item / H100_MEMORY  # read twice, and written
                ways = [GATHER, RING_GATHER, REDUCE]
                theirs = [THREE, logits(classes, p, item)]
                result.add_row(
                    network.name,
                    f"{p:,}",
                    f"{n:,}",
                    *(as_time(way.time(p, n, network)) for way in ways),
                    "reductions" if reduces(p, n) else "gather",
                    *(as_time(way.time(p, n, network)) for way in theirs),
                    as_time(memory),
                )
        result.add_section()
    return result


def bytes_table(classes: int, item: int, processes: list[int]) -> Table:
    result = Table(title=f"bytes a row that each process sends, by rings; {classes:,} classes")
    for heading in ("P", "ours: gather", "ours: reductions", "three reductions", "logits"):
        result.add_column(heading, justify="right")
    for p in processes:
        ways = [GATHER, REDUCE, THREE, logits(classes, p, item)]
        result.add_row(f"{p:,}", *(f"{way.on_ring(p):,.0f}" for way in ways))
    return result


def crossovers(processes: list[int]) -> Table:
    result = Table(title="rows from which on two reductions are faster than a gather, model")
    result.add_column("network", no_wrap=True)
    for p in processes:
        result.add_column(f"P = {p:,}", justify="right")
        result.add_column("(by a ring)", justify="right")

    def rows(found: float) -> str:
        return "never" if math.isinf(found) else "always" if found <= 1 else f"{found:,.0f}"

    for network in NETWORKS:
        cells = []
        for p in processes:
            cells += [rows(crossover(p, network, way)) for way in (GATHER, RING_GATHER)]
        result.add_row(network.name, *cells)
    limits: list[str] = []
    for p in processes:
        limits += [rows((8 << 20) / 24 / p) if p > 2 else "never", ""]
    result.add_row("what the library goes by", *limits)
    return result


def show() -> None:
    console = Console(width=150)
    console.print(bytes_table(1 << 20, 2, [2, 4, 8, 64, 1024]))
    console.print(table(1 << 20, 2, [8, 64, 1024], [64, 4096, 65536]))
    console.print(crossovers([2, 8, 64, 1024]))
