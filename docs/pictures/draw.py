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


class Picture:
    """An SVG, added to piece by piece."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.pieces = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            f'width="{width}" height="{height}" role="img">',
            "<!-- SPDX-License-Identifier: BSD-3-Clause. Drawn by draw.py. -->",
            f"<title>{title}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" '
            'style="fill: var(--line)"/></marker></defs>',
            f'<rect width="{width}" height="{height}" rx="8" style="fill: var(--ground)"/>',
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


def one_pass() -> Picture:
    """A row of logits, what is added up of it, and what is left for backward."""
    p = Picture(720, 330, "One pass over a row of logits")
    p.text(24, 32, "a row of C logits, read once", "head")
    heights = [38, 22, 55, 30, 47, 96, 18, 41, 33, 60, 26, 50]
    for i, height in enumerate(heights):
        p.box(24 + 36 * i, 150 - height, 28, height, "target" if i == 5 else "ours")
    p.arrow((24, 166), (452, 166))
    p.text(218, 190, f"x{sub('y')}, the target", "middle")
    p.box(500, 52, 14, 14, "ours")
    p.text(522, 64, "adds to S")
    p.box(500, 80, 14, 14, "target")
    p.text(522, 92, "stays out, kept as it is")
    p.text(500, 124, f"S = &#931; e{sup('x')} &#183; 2{sup('-c')}, j &#8800; y")
    p.text(500, 146, "c = round(m / ln 2); m: the target", "faint")
    p.text(500, 163, "or the largest of the first few", "faint")
    p.text(24, 226, "left for backward, three numbers a row", "head")
    for i, name in enumerate(("reference", "S", f"x{sub('y')}")):
        p.labelled(24 + 112 * i, 240, 104, 30, name, ("box", "ours", "target")[i])
    p.arrow((368, 255), (404, 255))
    p.text(414, 250, f"loss = log1p(S / exp(x{sub('y')}))")
    p.text(414, 272, f"1 &#8722; p{sub('y')} = S / (S + exp(x{sub('y')}))")
    p.text(
        24,
        308,
        "No difference of near numbers is taken. (exp: relative to the same power of two.)",
        "faint",
    )
    return p


def tensors() -> Picture:
    """N x C tensors that are there at the end of backward."""
    p = Picture(720, 230, "Tensors of N x C numbers, torch and fused_ce")
    for y, who, names in (
        (28, "torch", ("logits", "log-softmax", "its gradient", "gradient")),
        (128, "fused_ce", ("logits", "gradient")),
    ):
        p.text(24, y + 42, who, "head")
        for i, name in enumerate(names):
            fill = "box" if i == 0 else "sum" if i == len(names) - 1 else "target"
            p.labelled(120 + 148 * i, y, 132, 72, name, fill)
    p.box(416, 128, 10, 72, "ours")
    p.text(436, 160, "three numbers a row")
    p.text(436, 180, "forward writes nothing else", "faint")
    return p


def layouts() -> Picture:
    """Which numbers are in one vector of the processor, of four lanes here."""
    p = Picture(720, 350, "Which logits one vector holds")
    titles = (
        ("rows", "lanes are classes", "memory runs along a row"),
        ("few classes", "lanes are rows", "memory runs along a row:"),
        ("planes", "lanes are rows", "memory runs down a class"),
    )
    for k, (name, lanes, memory) in enumerate(titles):
        left = 24 + 236 * k
        rows, classes = (6, 8) if k != 1 else (8, 3)
        p.text(left, 32, name, "head")
        p.text(left, 52, lanes, "faint")
        for i in range(rows):
            for j in range(classes):
                mine = (i == 1 and j >= 4) if k == 0 else (j == 1 and i < 4)
                p.box(left + 24 * j, 84 + 22 * i, 22, 20, "ours" if mine else "none")
        bottom = 84 + 22 * rows + 20
        p.text(left, 76, "classes &#8594;", "faint")
        p.text(left, bottom, memory, "faint")
        if k == 1:
            p.text(left, bottom + 17, "transposed in registers", "faint")
        if k == 2:
            p.text(left, bottom + 17, "(N, C, H, W), transposed", "faint")
    p.text(
        24, 334, "Where lanes are rows, each holds a row's sum; else they are added up at its end."
    )
    return p


def chunks() -> Picture:
    """A linear layer and its loss, a chunk of rows at a time."""
    p = Picture(720, 350, "A linear layer and its loss, in chunks of rows")
    p.text(24, 30, "input (N, K)", "head")
    for i in range(5):
        p.box(24, 44 + 40 * i, 74, 36, "ours" if i == 1 else "box")
    p.text(108, 108, "&#215;")
    p.text(132, 30, "weight&#7488; (K, C)", "head")
    p.box(132, 66, 170, 74)
    p.arrow((312, 102), (352, 102))
    p.text(364, 30, "logits of one chunk", "head")
    p.box(364, 84, 170, 36, "target")
    p.text(449, 107, "logits, then gradient", "middle")
    p.arrow((544, 102), (584, 102))
    p.text(592, 98, "loss of")
    p.text(592, 116, "each row")
    p.arrow((449, 128), (449, 168))
    p.text(458, 152, "overwritten in place", "faint")
    p.labelled(364, 176, 170, 36, "gradient &#215; weight", "none")
    p.labelled(364, 232, 170, 36, "gradient&#7488; &#215; input", "none")
    p.arrow((544, 194), (584, 194))
    p.text(592, 199, "input&#8217;s gradient")
    p.arrow((544, 250), (584, 250))
    p.text(592, 255, "weight&#8217;s, a sum")
    p.text(24, 300, "The memory of one chunk's logits serves all chunks, one after another.")
    p.text(
        24, 322, "Of a mean or a sum, in forward: backward multiplies by what comes in.", "faint"
    )
    return p


def shards() -> Picture:
    """A vocabulary that is shared out to three processes."""
    p = Picture(720, 350, "A vocabulary shared out to processes")
    p.text(24, 30, "one row, its classes on three processes", "head")
    for r in range(3):
        left = 24 + 226 * r
        p.text(left, 58, f"process {r}", "faint")
        for j in range(8):
            p.box(left + 24 * j, 66, 22, 26, "target" if (r, j) == (1, 5) else "ours")
        p.arrow((left + 96, 98), (left + 96, 124))
        numbers = (f"K{sub(str(r))}", f"S{sub(str(r))}", f"x{sub('y')}" if r == 1 else "0")
        for i, number in enumerate(numbers):
            fill = "target" if i == 2 and r == 1 else "box"
            p.labelled(left + 12 + 58 * i, 130, 54, 30, number, fill)
        p.arrow((left + 96, 166), (left + 96, 190))
    p.labelled(24, 196, 644, 34, "all-gather: 24 bytes a row from each process", "sum")
    for r in range(3):
        left = 24 + 226 * r
        p.arrow((left + 96, 236), (left + 96, 258))
        p.labelled(left + 12, 264, 170, 30, "the loss, the same bits", "none")
    legend = f"K{sub('r')}: the largest logit there; S{sub('r')}: the exponentials of the others."
    p.text(24, 332, f"{legend} Backward exchanges nothing.", "faint")
    return p


PICTURES = {f.__name__: f for f in (one_pass, tensors, layouts, chunks, shards)}


if __name__ == "__main__":
    for name, draw in PICTURES.items():
        path = Path(__file__).with_name(f"{name}.svg")
        path.write_text(draw().svg())
        print(f"written: {path}", file=sys.stderr)
