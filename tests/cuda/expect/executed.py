# SPDX-License-Identifier: BSD-3-Clause
"""How many instructions a logit shall take, all in all, where rows are short."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ptx.count import Count

from .kernels import MARGIN

# At most so many, by type, call and classes.
Table = dict[str, dict[str, dict[str, int]]]


def made(counts: Sequence[Count]) -> Table:
    table: Table = {}
    for c in counts:
        by_call = table.setdefault(c.storage, {}).setdefault(c.call, {})
        by_call[str(c.classes)] = math.ceil(MARGIN * c.instructions)
    return table


def missed(counts: Sequence[Count], table: Table) -> Iterator[str]:
    for c in counts:
        most = table[c.storage][c.call][str(c.classes)]
        if c.instructions > most:
            yield (
                f"{c.storage} {c.call} of {c.classes} classes: "
                f"{c.instructions:.1f} instructions a logit in all, of {most}"
            )
