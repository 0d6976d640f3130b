# SPDX-License-Identifier: BSD-3-Clause
"""Draw a result file of accuracy.py: how far off the worst float32 row was, loss and gradient."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from distributions import DISTRIBUTIONS
from matplotlib.lines import Line2D
from records import Record, of_ours, of_torch, worst
from style import COLOURS, FOR_PHONES, GREY, OURS

# Each of DISTRIBUTIONS, in few words.
WORDS = {
    "normal": "normal logits",
    "confident": "target up to 100 ahead",
    "unlikely": "target up to 100 behind",
    "offset": "all moved by up to 10⁷",
    "huge offset": "all near the largest float",
    "ascending": "from −40 up to 40",
    "descending": "from 40 down to −40",
    "weighted": "class weights",
    "smoothed": "weights and smoothing",
    "probabilities": "class probabilities",
    "one-hot": "one-hot probabilities",
}
NOTHING = 2 / torch.finfo(torch.float32).eps  # no digit is right


def panel(axes: Any, records: list[Record], measures: list[str]) -> None:
    for some, colour, shift in (
        (of_ours(records), OURS, -0.14),
        (of_torch(records), COLOURS[0], 0.14),
    ):
        for y, name in enumerate(DISTRIBUTIONS):
            found = [r for r in some if r["distribution"] == name]
            # Probabilities have no target.
            ulps = [ulp for m in measures if (ulp := worst(found, m)) is not None]
            axes.plot(min(max(ulps), NOTHING), y + shift, "o", color=colour, markersize=9)
    axes.axvline(NOTHING, color=GREY, linewidth=1.5, linestyle=":")


def draw(results: Path) -> None:
    plt.rcParams.update(FOR_PHONES)
    result = json.loads(results.read_text())
    records = [r for r in result["rows"] if r["dtype"] == "float32"]
    figure, (loss, gradient) = plt.subplots(1, 2, figsize=(7.2, 7.6), sharex=True, sharey=True)
    panel(loss, records, ["loss"])
    panel(gradient, records, ["target", "others"])
    loss.set_title("loss")
    gradient.set_title("gradient")
    loss.set_yticks(range(len(WORDS)), [WORDS[name] for name in DISTRIBUTIONS])
    loss.invert_yaxis()
    loss.set_xscale("log")
    loss.set_xticks([1, 1e2, 1e4, 1e6], ["1", "100", "10⁴", "10⁶"])
    figure.suptitle("Worst error of a float32 row, in ulp", size=17, weight="bold", y=0.985)
    dot: dict[str, Any] = {"marker": "o", "linestyle": "", "markersize": 9}
    handles = [
        Line2D([], [], color=OURS, label="fused_ce", **dot),
        Line2D([], [], color=COLOURS[0], label="torch", **dot),
        Line2D([], [], color=GREY, linestyle=":", label="no digit is right"),
    ]
    figure.legend(handles=handles, loc="center", bbox_to_anchor=(0.5, 0.93), ncols=3, frameon=False)
    machine = result["machine"]
    sets = len(machine["fused_ce"]["cpu_capabilities"])
    caption = (
        f"{min(result['classes'])} to {max(result['classes']):,} classes; torch "
        f"{machine['torch'].partition('+')[0]}; ours: the worst of {sets} instruction sets"
    )
    figure.text(0.5, 0.015, caption, ha="center", color=GREY, size=13)
    figure.subplots_adjust(left=0.395, right=0.985, top=0.855, bottom=0.1, wspace=0.07)
    out = results.with_suffix(".png")
    figure.savefig(out, dpi=100)
    print(f"written: {out}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "results", type=Path, nargs="?", default=Path("benchmarks/results/accuracy.json")
    )
    draw(parser.parse_args().results)
