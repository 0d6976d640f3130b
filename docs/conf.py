# SPDX-License-Identifier: BSD-3-Clause
"""How Sphinx makes the site (`make docs`).

Formulas are drawn by MathJax, which the site brings along (sphinx-mathjax-offline): it is read
without a network, and what a page shows does not depend on another server.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import fused_ce
import tomllib

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]

project = "fused_ce"
author = "fused_ce contributors"
project_copyright = author
version = release = fused_ce.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",
    "breathe",
]
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"fused_ce {version}"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
html_theme_options = {
    "source_repository": URLS["Source"],
    "source_branch": "main",
    "source_directory": "docs/",
}
exclude_patterns = ["README.md"]  # the beginning of index.md

myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 3
# Dashes only: quotes stay as they are on GitHub, which shows the same pages.
smartquotes_action = "D"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
napoleon_custom_sections = ["Shape"]
napoleon_use_rtype = False

breathe_projects = {"fused_ce": str(ROOT / "build" / "doxygen" / "xml")}
breathe_default_project = "fused_ce"
breathe_default_members = ("members", "undoc-members")
cpp_maximum_signature_line_length = 88

# What is not ours: torch's and the standard library's names link nowhere.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(torch|collections|typing)(\..*)?|Tensor|ProcessGroup|Any"),
    (
        "py:(class|exc|obj)",
        r"None|bool|dict|float|int|object|optional|str|tuple|NamedTuple|.*Error",
    ),
    ("cpp:identifier", r"(at|c10|torch|std)(::.*)?|u?int\d+_t|size_t|fused_ce(::distributed)?"),
]


def begin_with_readme(app: Sphinx, name: str, source: list[str]) -> None:
    if name == "index":
        readme = ROOT / "docs" / "README.md"
        app.env.note_dependency(readme)
        source[0] = readme.read_text() + source[0]


def link_to_repository(app: Sphinx, name: str, source: list[str]) -> None:
    """Neighbours of this folder: functions are in the reference, all else is in the repository."""
    text = re.sub(
        r"\[`(?:fused_ce\.)?([\w.]+)`\]\(\.\./python/fused_ce/\w+\.py\)",
        r"[`\1`](#fused_ce.\1)",
        source[0],
    )
    source[0] = re.sub(r"(?<!!)(\[[^\]]*\])\(\.\./", rf"\1({URLS['Source']}/blob/main/", text)


def read_header(app: Sphinx) -> None:
    """Doxygen reads csrc/fused_ce.h, and Breathe what it wrote."""
    (ROOT / "build" / "doxygen").mkdir(parents=True, exist_ok=True)
    subprocess.run(["doxygen", "docs/Doxyfile"], cwd=ROOT, check=True)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", read_header)
    app.connect("source-read", begin_with_readme)
    app.connect("source-read", link_to_repository)
