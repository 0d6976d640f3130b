# SPDX-License-Identifier: BSD-3-Clause
"""What building needs and a machine lacks, each in one line that ends in what to type."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

OLDEST_TORCH = (2, 11)
OLDEST_CMAKE = (3, 22)
OLDEST_SETUPTOOLS = 77  # knows the licence expression in pyproject.toml

_INSTALL = "pip install --no-build-isolation ."
_IS_CXX20 = "#include <version>\n#if __cplusplus < 202002L\n#error\n#endif\n"


def find_tool(name: str) -> str | None:
    """A tool of the system, or one beside this interpreter (a venv need not be active)."""
    return shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))


def setuptools_lack(version: str) -> str | None:
    """Asked before anything else: an older one stops at pyproject.toml, in words of its own."""
    if int(version.split(".")[0]) >= OLDEST_SETUPTOOLS:
        return None
    return f"needs setuptools 77, and this is {version}: pip install 'setuptools>=77'"


def lacks() -> Iterator[str]:
    """The first is what to tell: later lines may only follow from it."""
    yield from _torch()
    yield from _headers()
    yield from _compiler()
    yield from _cmake()


def reason(cmake_errors: str) -> str:
    """What our own CMake files say, which CMake breaks into lines; else where to read."""
    ours = re.search(
        r"^ *fused_ce: (.+?)\n(?=\s*\n|Call Stack)", cmake_errors, re.DOTALL | re.MULTILINE
    )
    said = " ".join(ours[1].split()) if ours else "CMake says why above"
    return f"cannot be built here: {said}"


def _torch() -> Iterator[str]:
    try:
        import torch
    except ImportError:
        yield (
            "is compiled against the torch that will load it, and sees none (build isolation hides "
            f"it): pip install torch cmake ninja 'setuptools>=77' && {_INSTALL}"
        )
        return
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        yield (
            f"needs torch {oldest}, and this is {torch.__version__}: "
            f"pip install 'torch>={oldest}' && {_INSTALL}"
        )


def _headers() -> Iterator[str]:
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        package = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        yield f"needs the headers of this Python: sudo apt-get install {package}"


def _compiler() -> Iterator[str]:
    if "-DCMAKE_CXX_COMPILER=" in os.environ.get("CMAKE_ARGS", ""):
        return
    names = ("c++", "g++", "clang++")
    command = shlex.split(os.environ.get("CXX", "")) or [n for n in names if shutil.which(n)][:1]
    if not command or not shutil.which(command[0]):
        yield "needs a C++ compiler: sudo apt-get install g++"
        return
    command += ["-std=c++20", "-fsyntax-only", "-x", "c++", "-"]
    if subprocess.run(command, input=_IS_CXX20, text=True, capture_output=True).returncode:
        yield (
            f"needs a compiler that knows C++20, as gcc 11 does, and {command[0]} does not: "
            f"CXX=g++-12 {_INSTALL}"
        )


def _cmake() -> Iterator[str]:
    cmake = find_tool("cmake")
    said = subprocess.run([cmake, "--version"], text=True, capture_output=True) if cmake else None
    version = re.search(r"(\d+)\.(\d+)", said.stdout) if said else None
    if version is None or (int(version[1]), int(version[2])) < OLDEST_CMAKE:
        yield "needs CMake 3.22 or newer: pip install cmake ninja"
    elif not any(map(find_tool, ("ninja", "make"))) and "CMAKE_GENERATOR" not in os.environ:
        yield "needs ninja or make: pip install ninja"
