# SPDX-License-Identifier: BSD-3-Clause
"""What the package may say when it raises or warns, as its sources have it (test_docs.py)."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
GAP = "…"  # what is filled in
KINDS = {
    "TORCH_CHECK": "RuntimeError",
    "TORCH_CHECK_INDEX": "IndexError",
    "TORCH_CHECK_NOT_IMPLEMENTED": "NotImplementedError",
    "TORCH_CHECK_TYPE": "TypeError",
    "TORCH_CHECK_VALUE": "ValueError",
    "TORCH_WARN": "UserWarning",
}
STRING = re.compile(r'"(?:[^"\\]|\\.)*"')


class Message(NamedTuple):
    """An exception or a warning; GAP stands in its text for what is filled in."""

    kind: str
    text: str
    file: str


def messages() -> list[Message]:
    found = []
    for path in sorted([*(ROOT / "csrc").rglob("*.*"), *(ROOT / "kernels").rglob("*.*")]):
        if path.suffix in (".cpp", ".h", ".cu", ".cuh"):
            found += of_cpp(path)
    for path in sorted((ROOT / "python" / "fused_ce").glob("*.py")):
        found += of_python(path)
    found += of_build(ROOT / "build_tools" / "lacks.py")
    for path in [ROOT / "CMakeLists.txt", *sorted((ROOT / "cmake").iterdir())]:
        found += of_cmake(path)
    return found


def of_cpp(path: Path) -> Iterator[Message]:
    source = re.sub(r"^\s*//.*$", "", path.read_text(), flags=re.MULTILINE)
    for call in re.finditer(rf"\b({'|'.join(KINDS)})\(", source):
        macro = call.group(1)
        arguments = list(arguments_from(source, call.end()))
        parts = arguments if macro == "TORCH_WARN" else arguments[1:]
        pieces = [piece for part in parts for piece in cpp_pieces(part, source)]
        yield Message(KINDS[macro], joined(pieces), path.name)
    # Said where Python loads the library, and in a warning; and by CUDA, which aborts.
    for text in re.findall(r'return ("fused_ce: [^;]*);', source):
        pieces = [piece for part in re.split(r"\s\+\s", text) for piece in cpp_pieces(part, source)]
        yield Message("ImportError", joined(pieces), path.name)
    for string in re.findall(r'\bassert\(\w+ && ("[^"]*")\)', source):
        yield Message("Assertion", ast.literal_eval(string), path.name)


def cpp_pieces(argument: str, source: str) -> Iterator[str]:
    """String literals as they are, constants and functions of the file by what they are."""
    name = argument.strip().removesuffix("()")
    constant = re.search(rf"\b{re.escape(name)}\[\] = ([^;]*);", source)
    strings = STRING.findall(constant.group(1) if constant else argument)
    rest = "" if constant else STRING.sub("", argument).strip()
    if strings and not rest:
        yield "".join(ast.literal_eval(string) for string in strings)
    else:
        yield GAP


def arguments_from(source: str, begin: int) -> Iterator[str]:
    """The arguments of a call whose parenthesis is open before `begin`."""
    depth, start, i = 0, begin, begin
    while True:
        if string := STRING.match(source, i):
            i = string.end()
            continue
        if source[i] in ")]}" and depth == 0:
            yield source[start:i]
            return
        depth += (source[i] in "([{") - (source[i] in ")]}")
        if source[i] == "," and depth == 0:
            yield source[start:i]
            start = i + 1
        i += 1


def of_python(path: Path) -> Iterator[Message]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            kind = ast.unparse(node.exc.func)
            yield Message(kind, joined(python_pieces(node.exc.args[0])), path.name)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn":
            yield Message("UserWarning", joined(python_pieces(node.args[0])), path.name)


def python_pieces(node: ast.expr) -> Iterator[str]:
    if isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from python_pieces(value)
    elif isinstance(node, ast.Call):  # a function that makes the message of strings it is given
        for argument in node.args:
            yield GAP
            yield from python_pieces(argument)
    else:
        yield GAP


def of_build(path: Path) -> Iterator[Message]:
    """What a build ends with: strings that are yielded or returned, behind the package's name."""
    for node in ast.walk(ast.parse(path.read_text())):
        value = node.value if isinstance(node, ast.Yield | ast.Return) else None
        value = value.orelse if isinstance(value, ast.IfExp) else value
        if isinstance(value, ast.JoinedStr) or (
            isinstance(value, ast.Constant) and isinstance(value.value, str)
        ):
            yield Message("", "fused_ce " + joined(python_pieces(value)), path.name)


CMAKE = re.compile(
    rf"(?P<how>message\((?P<level>FATAL_ERROR|WARNING)|set\((missing|\w+_NOT_FOUND_MESSAGE))"
    rf"\s+(?P<text>({STRING.pattern}\s*)+)"
)


def of_cmake(path: Path) -> Iterator[Message]:
    for found in CMAKE.finditer(path.read_text()):
        kind = "CMake Warning" if found["level"] == "WARNING" else "CMake Error"
        text = "".join(ast.literal_eval(string) for string in STRING.findall(found["text"]))
        text = re.sub(r"\$\{\w+\}", GAP, text)
        around = [GAP] if "missing" in found["how"] else []  # it is a part of another message
        yield Message(kind, joined([*around, text, *around]), path.name)


def joined(pieces: Iterator[str] | list[str]) -> str:
    return re.sub(rf"{GAP}+", GAP, "".join(pieces))
