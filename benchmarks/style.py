# SPDX-License-Identifier: BSD-3-Clause
"""The look of the charts."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl

OURS = "#d55e00"
COLOURS = ["#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#0072b2", "#999999"]  # torch's first
COLOURS += ["#f0e442", "#8c564b"]
GREY = "#555555"

# Of pictures 720 pixels wide, which a phone shows at half their size.
FOR_PHONES: dict[Any, Any] = {"font.size": 16, "axes.titlesize": 16}

mpl.use("Agg")  # no display is needed
mpl.rcParams.update(
    {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titleweight": "bold",
        "axes.titlesize": 10,
        "axes.axisbelow": True,
        "axes.grid": True,
        "grid.color": "#e4e4e4",
        "font.size": 9,
    }
)
