# SPDX-License-Identifier: BSD-3-Clause
"""What a call launches: asked of the launchers, for shapes that take each of their loops."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from model.launches import Calls, build, calls_of
from model.work import Launch, Shape
from sass.facts import TERMS

# few (as many classes as it takes); rows by 4 threads, by a warp, by a block; slices; planes by
# vectors, and of an odd number of neighbours.
SHAPES = ["65536x32", "65536x200", "16384x2000", "4096x32000", "64x1000000"]
SHAPES += ["8x21x512x512", "8x21x513x513"]

# The functions that each call launches, by shape and terms (those that are alike): of any type.
Table = dict[str, dict[str, dict[str, str]]]
# The calls of each type, shape and terms.
Recorded = Mapping[tuple[str, str, str], Calls]


def record(storage: Sequence[str], jobs: int) -> Recorded:
    recorder = build(storage, jobs)
    shapes = [Shape.named(name) for name in SHAPES]
    return {
        (s, shape, terms): calls
        for s in storage
        for terms in TERMS.values()
        for shape, calls in zip(SHAPES, calls_of(recorder, s, terms, shapes), strict=True)
    }


def made(recorded: Recorded) -> Table:
    table: Table = {}
    for shape in dict.fromkeys(shape for _, shape, _ in recorded):
        found = {terms: functions(c) for (_, s, terms), c in recorded.items() if s == shape}
        alike: dict[str, list[str]] = {}
        for terms, calls in found.items():
            alike.setdefault(str(calls), []).append(terms)
        table[shape] = {", ".join(group): found[group[0]] for group in alike.values()}
    return table


def functions(calls: Calls) -> dict[str, str]:
    return {call: ", ".join(x.function for x in launches) for call, launches in calls.items()}


def missed(recorded: Recorded, table: Table) -> Iterator[str]:
    """Calls that launch something else."""
    for (storage, shape, terms), calls in recorded.items():
        groups = table.get(shape, {}).items()
        expected = next((wanted for group, wanted in groups if terms in group.split(", ")), {})
        for call, found in functions(calls).items():
            if found != expected.get(call):
                yield f"{shape} {storage} {terms} {call}: {found}, not {expected.get(call)}"


def of_kernels(recorded: Recorded) -> dict[tuple[str, str], Launch]:
    """A launch of each kernel, by its type and name; the one with the most shared memory."""
    every = [x for calls in recorded.values() for launches in calls.values() for x in launches]
    return {(x.storage, x.kernel): x for x in sorted(every, key=lambda launch: launch.shared)}
