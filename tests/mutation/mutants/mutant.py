# SPDX-License-Identifier: BSD-3-Clause
"""A bug: in `file`, under kernels/, the text `before` becomes `after`."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    name: str
    file: str
    before: str
    after: str
