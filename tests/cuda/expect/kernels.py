# SPDX-License-Identifier: BSD-3-Clause
"""What each kernel shall cost, and what is missed of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypedDict

from model.work import Launch
from sass.facts import Kernel
from sass.hot_loop import SIZES
from sass.occupancy import resident
from sass.toolkit import ARCHITECTURES

# One for all architectures, or one for each, in their order.
Limit = int | list[int]
# What chance does to the code: another version of nvcc, a change elsewhere in a kernel.
MARGIN = 1.05
# Architectures are alike where the worst is no more above the best.
ALIKE = 1.25


class Expected(TypedDict):
    """Of a kernel and a type."""

    instructions: Limit  # an element in the hot loop, at most
    in_flight: Limit  # KB of a multiprocessor that are asked for at once, at least


# By name and type.
Table = dict[str, dict[str, Expected]]
# Of each kernel, by type and name.
Launches = Mapping[tuple[str, str], Launch]


def in_flight(kernel: Kernel, launch: Launch) -> int:
    """KB that all threads of a multiprocessor have asked for before they wait."""
    shared = kernel.shared + launch.shared
    blocks = resident(kernel.arch, launch.threads, kernel.registers, shared)
    return blocks * launch.threads * kernel.asked // 1024


def vector(kernel: Kernel) -> int:
    """Bits of logits that are loaded at once: of planes, those of neighbouring rows."""
    neighbours = re.fullmatch(r"planes.*, (\d+)>", kernel.name)
    return 8 * SIZES[kernel.storage] * int(neighbours[1]) if neighbours else 128


def of(limit: Limit, arch: int) -> int:
    return limit[ARCHITECTURES.index(arch)] if isinstance(limit, list) else limit


def faults(kernel: Kernel, launch: Launch, expected: Expected) -> Iterator[str]:
    """What is missed of one kernel."""
    if kernel.spills or kernel.local or kernel.stack:
        yield "spills"
    if not kernel.loop:
        yield "no hot loop was found"
        return
    if kernel.loop_fp64 and kernel.storage != "double":
        yield "double in the hot loop"
    # Made of IEEE operations for float and double; the hardware's, one an element, for half types.
    if kernel.exp2_per_element != (kernel.storage in ("BFloat16", "Half")):
        yield f"{kernel.exp2_per_element:.1f} EX2 an element"
    # As wide as loads, without which no hot loop is found.
    stores = {128: kernel.stg128, 64: kernel.stg64}.get(vector(kernel), 1)
    if "backward" in kernel.name and not stores:
        yield f"no stores of {vector(kernel)} bits"
    if kernel.per_element > (most := of(expected["instructions"], kernel.arch)):
        yield f"{kernel.per_element:.1f} instructions an element, of {most}"
    if (found := in_flight(kernel, launch)) < (least := of(expected["in_flight"], kernel.arch)):
        yield f"{found} KB in flight, of {least}"


def missed(kernels: Sequence[Kernel], launches: Launches, table: Table) -> Iterator[str]:
    """What is missed of all kernels of some types and architectures."""
    every = {(k.arch, k.storage, k.name): k for k in kernels if k.storage != "none"}
    units = {(arch, storage) for arch, storage, _ in every}
    wanted = {(*u, name) for name, types in table.items() for u in units if u[1] in types}
    for key in sorted(every.keys() ^ wanted):
        yield f"{title(key)}: {'not expected' if key in every else 'is not there'}"
    for key in sorted(every.keys() & wanted):
        kernel, (_, storage, name) = every[key], key
        found = list(faults(kernel, launches[storage, name], table[name][storage]))
        # Beside probabilities there are loads for them as well. (Of double, a linear sum has fewer
        # loads of logits under way.)
        without = every.get((kernel.arch, storage, name.replace("probabilities", "indices")))
        if without and without != kernel and vector(kernel) >= 64 and storage != "double":
            found += ["no vectors of probabilities"] * (kernel.ldg128 <= without.ldg128)
        yield from (f"{title(key)}: {fault}" for fault in found)


def title(key: tuple[int, str, str]) -> str:
    return "sm_{} {} {}".format(*key)


def limit(values: Sequence[int], alike: float) -> Limit:
    """One for all where they are alike: the largest."""
    return max(values) if max(values) <= alike * min(values) else list(values)


def made(kernels: Sequence[Kernel], launches: Launches) -> Table:
    """The expectations that these kernels, of all architectures, just meet."""
    by_name: dict[tuple[str, str], dict[int, Kernel]] = {}
    for kernel in kernels:
        if kernel.storage != "none":
            by_name.setdefault((kernel.name, kernel.storage), {})[kernel.arch] = kernel
    table: Table = {}
    for (name, storage), found in sorted(by_name.items()):
        each = [found[arch] for arch in ARCHITECTURES]
        table.setdefault(name, {})[storage] = {
            "instructions": limit([math.ceil(MARGIN * k.per_element) for k in each], ALIKE),
            "in_flight": limit([in_flight(k, launches[storage, name]) for k in each], 1),
        }
    return table
