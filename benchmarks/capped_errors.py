# SPDX-License-Identifier: BSD-3-Clause
"""How far off capped logits are, and the loss of them, in ulp."""

from __future__ import annotations

import numpy as np
import torch
from cases import DTYPES
from distributions import Rows
from exact import accumulated, capped, exact_statistics, ulp
from head_errors import errors_of, layouts
from heads import Head
from records import Record
from worst_rows import Errors

CAP = 30.0
SINGLE = "one capped logit"
SINGLES = 2**18


def errors_of_capped(head: Head, case: Rows) -> Errors:
    """Of losses of capped logits: in ulp, and in ulp and what an ulp of each z makes of the loss.

    z is rounded before the loss sees it, and where it is 30 that is more than an ulp of a small
    loss.
    """
    z, dtype = capped(case.logits, CAP), accumulated(case.logits.dtype)
    at = (np.arange(len(z)), case.target.numpy())
    slopes = exact_statistics(z).shares
    at_target = slopes[at]
    slopes[at] = 0
    others = slopes.sum(1)
    slopes[at] = others
    loss = np.log1p(others / at_target)
    one = ulp(loss, dtype)
    with_logits = one + (ulp(z, dtype) * slopes).sum(1)
    found: Errors = {}
    for layout, (x, indices) in layouts(case).items():
        plain = errors_of(head(x, indices, 0.0, CAP).loss, loss)
        found[layout] = {
            "capped loss": plain * one / with_logits,
            "capped loss, plain": plain,
        }
    return found


def capped_singles(head: Head, dtype: str) -> Record:
    """Of rows of one class, whose lse is the capped logit: of either sign, from 0.001 to 1000."""
    random = torch.Generator().manual_seed(0)
    exponents = 6 * torch.rand(SINGLES, 1, generator=random, dtype=torch.float64) - 3
    signs = 1 - 2 * (torch.arange(SINGLES)[:, None] % 2)
    x = (signs * 10**exponents).to(DTYPES[dtype])
    lse = head(x, torch.zeros(SINGLES, dtype=torch.int64), 0.0, CAP).lse
    found = errors_of(lse, capped(x, CAP)[:, 0])
    row = int(found.argmax())
    worst = {"ulp": float(found[row]), "C": 1, "rows": SINGLES, "row": row, "x": float(x[row])}
    names = {"dtype": dtype, "distribution": SINGLE, "C": 1, "rows": SINGLES}
    return names | {"capped lse": worst}
