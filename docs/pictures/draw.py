# SPDX-License-Identifier: BSD-3-Clause
"""The pictures of how_it_works.md: `python docs/pictures/draw.py` writes them beside this file.

Each has a ground of its own, light or dark as the page around it is, so that it can be read on
GitHub and on the site in either.
"""

from __future__ import annotations

import sys
from pathlib import Path

STYLE = """
  svg { --ground: #f8f9fb; --ink: #1f2933; --faint: #5f6b7a; --line: #8a96a5;
        --box: #dde3ea; --target: #e8a33d; --ours: #5b9bd5; --sum: #7db88f; --none: #ffffff }
  @media (prefers-color-scheme: dark) {
    svg { --ground: #1d2127; --ink: #e6e9ed; --faint: #a3adba; --line: #7d8896;
          --box: #38414d; --target: #b3741b; --ours: #2f6ba3; --sum: #3f7a52; --none: #262c34 } }
  text { font: 14px system-ui, "DejaVu Sans", sans-serif; fill: var(--ink) }
  .faint { fill: var(--faint); font-size: 12.5px }
  .head { font-weight: 600 }
  .middle { text-anchor: middle }
  .end { text-anchor: end }
  .arrow { stroke: var(--line); stroke-width: 1.5; fill: none; marker-end: url(#tip) }
"""


WIDTH = 480  # of a phone's text, and little more


class Picture:
    """An SVG, added to piece by piece."""

    def __init__(self, height: int, title: str) -> None:
        self.pieces = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
            f'width="{WIDTH}" height="{height}" role="img">',
            "<!-- SPDX-License-Identifier: BSD-3-Clause. Drawn by draw.py. -->",
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" '
            'style="fill: var(--line)"/></marker></defs>',
            f'<rect width="{WIDTH}" height="{height}" rx="8" style="fill: var(--ground)"/>',
        ]

    def box(self, x: float, y: float, w: float, h: float, fill: str = "box") -> None:
        self.pieces.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="2" '
            f'style="fill: var(--{fill}); stroke: var(--line)"/>'
        )

    def text(self, x: float, y: float, text: str, style: str = "") -> None:
        self.pieces.append(f'<text x="{x:g}" y="{y:g}" class="{style}">{text}</text>')

    def arrow(self, *points: tuple[float, float]) -> None:
        path = "L".join(f"{x:g} {y:g}" for x, y in points)
        self.pieces.append(f'<path d="M{path}" class="arrow"/>')

    def labelled(self, x: float, y: float, w: float, h: float, label: str, fill: str) -> None:
        self.box(x, y, w, h, fill)
        self.text(x + w / 2, y + h / 2 + 5, label, "middle")

    def svg(self) -> str:
        return "\n".join([*self.pieces, "</svg>\n"])


def sub(index: str) -> str:
    return f'<tspan dy="4" font-size="11">{index}</tspan><tspan dy="-4">&#8203;</tspan>'


def sup(index: str) -> str:
    return f'<tspan dy="-5" font-size="11">{index}</tspan><tspan dy="5">&#8203;</tspan>'


X_Y = f"x{sub('y')}"


def one_pass() -> Picture:
    """A row of logits, what is added up of it, and what is left for backward."""
    p = Picture(400, "One pass over a row of logits")
    p.text(24, 32, "a row of C logits, read once", "head")
    heights = [38, 22, 55, 30, 47, 96, 18, 41, 33, 60, 26, 50]
    for i, height in enumerate(heights):
        p.box(24 + 36 * i, 150 - height, 28, height, "target" if i == 5 else "ours")
    p.arrow((24, 164), (452, 164))
    p.box(24, 182, 14, 14, "ours")
    p.text(46, 194, f"all but the target: S = &#931; e{sup('x')} &#183; 2{sup('-c')}")
    p.box(24, 208, 14, 14, "target")
    p.text(46, 220, f"the target stays out: {X_Y}")
    p.text(24, 246, "c &#8776; m / ln 2, m the target or the largest of the first few", "faint")
    p.text(24, 284, "left for backward, three numbers a row", "head")
    for i, (name, fill) in enumerate((("reference", "box"), ("S", "ours"), (X_Y, "target"))):
        p.labelled(24 + 148 * i, 298, 136, 30, name, fill)
    p.text(24, 356, f"loss = log1p(S / exp({X_Y}))")
    p.text(240, 356, f"1 &#8722; p{sub('y')} = S / (S + exp({X_Y}))")
    p.text(24, 382, "No difference of near numbers. (exp: times the same power of two)", "faint")
    return p


def tensors() -> Picture:
    """N x C tensors that are there at the end of backward."""
    p = Picture(260, "Tensors of N x C numbers, torch and fused_ce")
    for y, who, names in (
        (32, "torch", ("logits", "log-softmax", "its gradient", "gradient")),
        (150, "fused_ce", ("logits", "gradient")),
    ):
        p.text(24, y, who, "head")
        for i, name in enumerate(names):
            fill = "box" if i == 0 else "sum" if i == len(names) - 1 else "target"
            p.labelled(24 + 112 * i, y + 12, 96, 64, name, fill)
    p.box(248, 162, 10, 64, "ours")
    p.text(270, 190, "three numbers a row")
    p.text(270, 210, "all that forward writes", "faint")
    return p


def layouts() -> Picture:
    """Which numbers are in one vector of the processor, of four lanes here."""
    p = Picture(320, "Which logits one vector holds")
    columns = (
        ("rows", "lanes are classes", ("memory runs", "along a row")),
        (
            "few classes",
            "lanes are rows",
            ("memory runs along", "a row: transposed", "in registers"),
        ),
        (
            "planes",
            "lanes are rows",
            ("memory runs down", "a class: (N, C, H, W)", "or transposed"),
        ),
    )
    for k, (name, lanes, memory) in enumerate(columns):
        left = 24 + 152 * k
        p.text(left, 32, name, "head")
        p.text(left, 52, lanes, "faint")
        p.text(left, 78, "classes &#8594;", "faint")
        rows, classes = (6, 8) if k != 1 else (8, 3)
        for i in range(rows):
            for j in range(classes):
                mine = (i == 1 and j >= 4) if k == 0 else (j == 1 and i < 4)
                p.box(left + 16 * j, 86 + 16 * i, 14, 14, "ours" if mine else "none")
        for i, line in enumerate(memory):
            p.text(left, 236 + 16 * i, line, "faint")
    p.text(24, 302, "Where lanes are rows, each holds a row's sum.")
    return p


def chunks() -> Picture:
    """A linear layer and its loss, a chunk of rows at a time."""
    p = Picture(380, "A linear layer and its loss, in chunks of rows")
    p.text(24, 30, "input (N, K)", "head")
    for i in range(5):
        p.box(24, 44 + 40 * i, 74, 36, "ours" if i == 1 else "box")
    p.text(112, 107, "&#215;")
    p.text(136, 30, "weight&#7488; (K, C)", "head")
    p.box(136, 66, 112, 74)
    p.arrow((256, 102), (282, 102))
    p.text(288, 30, "logits of one chunk", "head")
    for y, label, fill in (
        (84, "logits", "target"),
        (156, "their gradient", "target"),
        (228, "gradient &#215; weight", "none"),
        (286, "gradient&#7488; &#215; input", "none"),
    ):
        p.labelled(288, y, 168, 34, label, fill)
    p.arrow((372, 120), (372, 152))
    p.text(382, 141, "in their place", "faint")
    p.arrow((372, 192), (372, 224))
    for y, result in ((245, "input's gradient"), (303, "weight's, added up")):
        p.arrow((282, y), (254, y))
        p.text(246, y + 5, result, "end")
    p.text(24, 346, "The memory of one chunk's logits serves all chunks in turn.")
    p.text(24, 366, "Of a mean or a sum in forward: backward multiplies by what comes in.", "faint")
    return p


def shards() -> Picture:
    """A vocabulary that is shared out to three processes."""
    p = Picture(360, "A vocabulary shared out to processes")
    p.text(24, 30, "one row, its classes on three processes", "head")
    for r in range(3):
        left = 24 + 152 * r
        p.text(left, 58, f"process {r}", "faint")
        for j in range(8):
            p.box(left + 16 * j, 66, 14, 26, "target" if (r, j) == (1, 5) else "ours")
        p.arrow((left + 63, 98), (left + 63, 122))
        numbers = (f"K{sub(str(r))}", f"S{sub(str(r))}", X_Y if r == 1 else "0")
        for i, number in enumerate(numbers):
            fill = "target" if i == 2 and r == 1 else "box"
            p.labelled(left + 43 * i, 128, 39, 30, number, fill)
        p.arrow((left + 63, 164), (left + 63, 188))
        p.arrow((left + 63, 234), (left + 63, 256))
        p.labelled(left, 262, 126, 30, "the same loss", "none")
    p.labelled(24, 194, 430, 34, "all-gather: 24 bytes a row from each process", "sum")
    legend = f"K{sub('r')}: the largest logit there; S{sub('r')}: the exponentials of the others."
    p.text(24, 322, legend, "faint")
    p.text(24, 342, "Backward exchanges nothing.", "faint")
    return p


PICTURES = {f.__name__: f for f in (one_pass, tensors, layouts, chunks, shards)}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        path = Path(__file__).with_name(f"{name}.svg")
        path.write_text(draw().svg())
        print(f"written: {path}", file=sys.stderr)
