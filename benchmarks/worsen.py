# SPDX-License-Identifier: BSD-3-Clause
"""The worst rows that a search finds: it keeps the worst, and changes a logit in copies of them.

    FUSED_CE_CPU_CAPABILITY=avx2 python benchmarks/worsen.py --classes 5 64

Millions of random rows find less in minutes than this does in seconds.
"""

from __future__ import annotations

import argparse
import itertools

import fused_ce
import numpy as np
import torch
from distributions import Rows
from exact import exact
from records import MEASURES
from worst_rows import FEW, errors_of_rows

LAYOUTS = ("rows", "planes")
KEPT, COPIES = 512, 16


def first_rows(classes: int, lead: float, random: torch.Generator) -> Rows:
    """Normal logits; the target leads by as much as `lead`."""
    x = torch.randn(KEPT * COPIES, classes, generator=random)
    target = torch.randint(classes, (len(x),), generator=random)
    x[torch.arange(len(x)), target] += lead * torch.rand(len(x), generator=random)
    return Rows(x, target, {})


def changed(kept: Rows, lead: float, random: torch.Generator) -> Rows:
    """Those rows, and copies of each with one logit drawn again, or nudged."""
    x, target = kept.logits.repeat(COPIES, 1), kept.target.repeat(COPIES)
    copies = torch.arange(KEPT, len(x))
    at = torch.randint(x.size(1), copies.shape, generator=random)
    again = torch.randn(copies.shape, generator=random)
    again += (at == target[copies]) * lead * torch.rand(copies.shape, generator=random)
    steps = 10.0 ** -torch.randint(3, 7, copies.shape, generator=random)
    nudged = x[copies, at] * (1 + steps * torch.randn(copies.shape, generator=random))
    x[copies, at] = torch.where(torch.rand(copies.shape, generator=random) < 0.5, again, nudged)
    return Rows(x, target, {})


def worst_row(
    measure: str, layout: str, classes: int, lead: float, generations: int, seed: int
) -> tuple[float, Rows]:
    """How far off it is, and the row."""
    random = torch.Generator().manual_seed(seed)
    case = first_rows(classes, lead, random)
    for generation in range(generations):
        found = errors_of_rows(fused_ce.cross_entropy, case, exact(*case), layout)[measure]
        worst = torch.from_numpy(np.argsort(-found)[:KEPT].copy())
        case = Rows(case.logits[worst], case.target[worst], {})
        if generation + 1 < generations:
            case = changed(case, lead, random)
    return float(found[worst[0]]), Rows(case.logits[0], case.target[0], {})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--classes", type=int, nargs="+", default=FEW)
    parser.add_argument("--lead", type=float, nargs="+", default=[0, 20], help="of the target")
    parser.add_argument("--generations", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--print-rows", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"float32 at {fused_ce.build_info()['cpu_capability']}, ulp")
    for classes, layout, lead, measure in itertools.product(
        args.classes, LAYOUTS, args.lead, MEASURES
    ):
        ulp, row = worst_row(measure, layout, classes, lead, args.generations, args.seed)
        print(f"C = {classes}, {layout}, lead {lead:g}, {MEASURES[measure]}: {ulp:.2f}", flush=True)
        if args.print_rows:
            print(f"  target {int(row.target)}:", *(x.hex() for x in row.logits.tolist()))


if __name__ == "__main__":
    main()
