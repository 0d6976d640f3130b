# SPDX-License-Identifier: BSD-3-Clause
"""The estimates as tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import modelled
from ptx.count import Count

from .estimate import Estimate

TYPES = {"float": "float32", "BFloat16": "bfloat16"}
PARTS = "blocks, waves, in flight KB, issue %, latency %, serial µs, launches, time µs, bandwidth %"
PARTS += ", best %"


@dataclass(frozen=True)
class Result:
    """The estimate of a call."""

    gpu: str
    shape: str
    storage: str
    call: str
    estimate: Estimate


def title(shape: str) -> str:
    return f"({', '.join(shape.split('x'))})"


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def head(cells: Sequence[str]) -> list[str]:
    return [line(cells), line(["---"] * len(cells))]


def in_short(estimate: Estimate) -> str:
    """Per cent, or microseconds of what leaves most of a GPU idle."""
    idle = estimate.waves < 0.5
    return f"{estimate.microseconds:.0f} µs" if idle else f"{100 * estimate.reached:.0f}"


def summary(results: Sequence[Result]) -> Iterator[str]:
    """A table for each call, a column for each GPU, float32 / bfloat16; ? where there is none."""
    gpus = list(dict.fromkeys(r.gpu for r in results))
    for call in dict.fromkeys(r.call for r in results):
        yield from head([f"{call}, {' / '.join(TYPES.values())}", *gpus])
        for shape in dict.fromkeys(r.shape for r in results):
            found = {
                (r.gpu, r.storage): in_short(r.estimate)
                for r in results
                if (r.shape, r.call) == (shape, call)
            }
            columns = (" / ".join(found.get((gpu, s), "?") for s in TYPES) for gpu in gpus)
            yield line([title(shape), *columns])
        yield ""


def details(results: Sequence[Result]) -> Iterator[str]:
    """A table for each GPU."""
    for gpu in dict.fromkeys(r.gpu for r in results):
        yield f"## {gpu}"
        yield ""
        yield from head(["logits", "type", "call", *PARTS.split(", ")])
        for r in results:
            if r.gpu == gpu:
                yield line([title(r.shape), TYPES[r.storage], r.call, *cells(r.estimate)])
        yield ""


def executed(counts: Sequence[Count]) -> Iterator[str]:
    """A column for each type and call."""
    columns = {(c.storage, c.call): f"{TYPES[c.storage]} {c.call}" for c in counts}
    yield from head(["classes", *columns.values()])
    for classes in dict.fromkeys(c.classes for c in counts):
        of_classes = {(c.storage, c.call): c for c in counts if c.classes == classes}
        cells = [f"{of_classes[column].instructions:.0f}" for column in columns]
        yield line([str(classes), *cells])
    yield ""


def figures(results: Sequence[Result]) -> modelled.Figures:
    """The bandwidths, for `make gpu`."""
    found: modelled.Figures = {}
    for r in results:
        name = modelled.name(r.shape, TYPES[r.storage], r.call)
        found.setdefault(r.gpu, {})[name] = round(100 * r.estimate.reached, 1)
    return found


def cells(e: Estimate) -> list[str]:
    return [
        str(e.blocks),
        f"{e.waves:.2f}",
        f"{e.in_flight:.0f}",
        f"{100 * e.issue:.0f}",
        f"{100 * e.latency:.0f}",
        f"{e.serial:.1f}",
        str(e.launches),
        f"{e.microseconds:.1f}",
        f"{100 * e.reached:.0f}",
        f"{100 * e.best:.0f}",
    ]


def between(text: str, mark: str, lines: Sequence[str]) -> str:
    """Text whose lines between two marks are these."""
    first, last = f"<!-- {mark} -->\n", f"<!-- /{mark} -->\n"
    before, _, rest = text.partition(first)
    _, found, after = rest.partition(last)
    if not found:
        raise ValueError(f"no {first.strip()} ... {last.strip()}")
    return "\n".join([before + first, *lines, last + after])
