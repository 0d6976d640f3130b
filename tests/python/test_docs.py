# SPDX-License-Identifier: BSD-3-Clause
"""The documents say what the package does: examples run, and nothing is missing or stale."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path
from typing import Any

import fused_ce
import pytest
import torch
import torch.distributed as dist
from messages import GAP, KINDS, Message, messages

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), *DOCS.glob("*.rst")])

# What examples of docstrings call by a name that says enough there.
TOKENS = {"tokens": torch.tensor([1, 2, 3]), "next_tokens": torch.tensor([2, 3, 4])}
IMAGES = {"images": torch.randn(2, 4), "labels": torch.tensor([0, 2])}
NAMES: dict[str, dict[str, Any]] = {
    "fused_ce.modules.CrossEntropyLoss": {"model": torch.nn.Linear(4, 3), **IMAGES},
    "fused_ce.modules.CrossEntropyStatsLoss": {
        "model": torch.nn.Embedding(9, 9),
        "mask": torch.ones(3),
        **TOKENS,
    },
    "fused_ce.modules.LinearCrossEntropyLoss": {"model": torch.nn.Embedding(9, 512), **TOKENS},
    "fused_ce.distributed.cross_entropy": {
        "model": torch.nn.Linear(4, 3),
        "batch": IMAGES["images"],
        "target": IMAGES["labels"],
    },
}


def of_docstrings() -> list[doctest.DocTest]:
    modules = [m.name for m in pkgutil.iter_modules(fused_ce.__path__) if m.name != "__main__"]
    finder = doctest.DocTestFinder(exclude_empty=True)
    return [
        test
        for name in [f"fused_ce.{m}" for m in modules]
        for test in finder.find(importlib.import_module(name), name)
        if test.examples
    ]


def of_pages() -> list[doctest.DocTest]:
    """The sessions of a page, one after another."""
    parser = doctest.DocTestParser()
    tests = []
    for page in PAGES:
        sessions = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(), re.DOTALL))
        if sessions:
            tests.append(parser.get_doctest(sessions, {}, page.name, str(page), 0))
    return tests


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


@pytest.mark.parametrize("test", of_docstrings(), ids=lambda test: test.name)
def test_examples_of_docstrings(test: doctest.DocTest) -> None:
    test.globs = {"torch": torch, "fused_ce": fused_ce, **NAMES.get(test.name, {})}
    if "distributed" in test.name:
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        run(test)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.mark.parametrize("test", of_pages(), ids=lambda test: test.name)
def test_examples_of_pages(test: doctest.DocTest) -> None:
    run(test)


def test_every_function_has_its_examples_run() -> None:
    assert {test.name for test in of_docstrings()} >= NAMES.keys()
    assert {test.name for test in of_pages()} >= {"errors.md", "differences.md"}


# ---- The page of errors --------------------------------------------------------------------------

# What is raised is a string that another function made, which is among the messages itself.
MADE_ELSEWHERE = {("UserWarning", "loaded_twice.cpp"), ("ImportError", "__init__.py")}


def on_the_page() -> list[str]:
    text = (DOCS / "errors.md").read_text()
    shown = "".join(re.findall(r"```text\n(.*?)```", text, re.DOTALL)).splitlines()
    kinds = "|".join({*KINDS.values(), "ImportError"})
    sessions = "\n".join(re.findall(r"```pycon\n(.*?)```", text, re.DOTALL))
    return shown + re.findall(rf"^(?:{kinds}): .*$", sessions, re.MULTILINE)


def pattern(message: Message) -> re.Pattern[str]:
    """Of a line of the page, which has GAP or an example's values where the message has gaps."""
    text = (f"{message.kind}: " if message.kind else "") + " ".join(message.text.split())
    return re.compile(".*".join(re.escape(piece) for piece in text.split(GAP)))


MESSAGES = [message for message in messages() if message.text != GAP]


def test_messages_are_found() -> None:
    assert {(m.kind, m.file) for m in messages() if m.text == GAP} == MADE_ELSEWHERE
    assert {message.kind for message in MESSAGES} >= {*KINDS.values(), "ImportError", ""}


def test_every_message_is_on_the_page() -> None:
    lines = on_the_page()
    missing = [m for m in MESSAGES if not any(map(pattern(m).fullmatch, lines))]
    assert not missing, "docs/errors.md lacks these, with what to do about them"


def test_every_message_on_the_page_is_said() -> None:
    patterns = [pattern(message) for message in MESSAGES]
    assert not [line for line in on_the_page() if not any(p.fullmatch(line) for p in patterns)]


# ---- The reference -------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["fused_ce", "fused_ce.distributed"])
def test_every_public_name_is_in_the_reference(module: str) -> None:
    page = (DOCS / "reference_python.rst").read_text()
    names = re.findall(r"^\.\. (?:auto|py:)\w+:: (\S+)", page, re.MULTILINE)
    public = {f"{module}.{name}" for name in importlib.import_module(module).__all__}
    assert public <= {*names}, public - {*names}


# Functions, classes, and what makes a module's class.
DECLARED = re.compile(
    r"^(?:FUSED_CE_API [\w:]+ (\w+)\(|(?:struct|class) (?:FUSED_CE_API )?(\w+)"
    r"|TORCH_MODULE\((\w+))",
    re.MULTILINE,
)


def test_every_declaration_is_in_the_reference() -> None:
    header = (ROOT / "csrc" / "fused_ce.h").read_text()
    before, rest = header.split("namespace distributed {")
    inside, after = rest.split("}  // namespace distributed")
    declared = ["".join(names) for names in DECLARED.findall(before + after)]
    declared += ["distributed::" + "".join(names) for names in DECLARED.findall(inside)]
    page = (DOCS / "reference_cpp.rst").read_text()
    shown = re.findall(r"^\.\. doxygen\w+:: fused_ce::([\w:]+)", page, re.MULTILINE)
    assert sorted(shown) == sorted(declared)


def test_every_operator_is_in_the_reference() -> None:
    page = (DOCS / "reference_operators.md").read_text()
    shown = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    schemas = [
        str(schema)
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("fused_ce::") and not schema.name.startswith("fused_ce::_")
    ]
    spaces = re.compile(r"\s")
    assert {spaces.sub("", text) for text in shown} == {spaces.sub("", s) for s in schemas}


# ---- The pages -----------------------------------------------------------------------------------


READMES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("[a-z]*/README.md")]


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings; some pages have their own."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    return slugs | {*re.findall(r'id="([^"]+)"', text)}


@pytest.mark.parametrize("page", sorted({*PAGES, *READMES}), ids=lambda p: str(p.relative_to(ROOT)))
def test_links(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if target.startswith("https:"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path), link


def test_pictures_are_what_the_script_draws() -> None:
    names: dict[str, Any] = {"__name__": "draw"}
    exec((DOCS / "pictures" / "draw.py").read_text(), names)
    for name, draw in names["PICTURES"].items():
        assert (DOCS / "pictures" / f"{name}.svg").read_text() == draw().svg()
    assert len(names["PICTURES"]) == len([*(DOCS / "pictures").glob("*.svg")])
