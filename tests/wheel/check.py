# SPDX-License-Identifier: BSD-3-Clause
"""What is in a wheel, and what its libraries want of the machine that loads them.

    .venv/bin/python tests/wheel/check.py dist/*.whl

Needs binutils, and the torch that the wheel was built for.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "fused_ce"
CONTENT = [
    *(re.escape(f"fused_ce/{path.name}") for path in PACKAGE.glob("*.py*")),
    r"fused_ce/py\.typed",
    r"fused_ce/_C\.[\w-]+\.so",
    r"fused_ce/lib/libfused_ce\.so",
    r"fused_ce/include/fused_ce\.h",
    r"fused_ce/lib/cmake/FusedCE/FusedCE(Config|ConfigVersion|Targets|Targets-release)\.cmake",
    r"fused_ce-[\w.+]+\.dist-info/(METADATA|WHEEL|RECORD|top_level\.txt|licenses/LICENSE)",
]
# torch's own, those of the C++ compiler, and each other.
LIBRARIES = re.compile(
    r"lib(torch(_cpu|_cuda|_python)?|c10(_cuda)?|fused_ce|stdc\+\+|gcc_s|m|c|pthread)\.so(\.\d+)?"
    r"|ld-linux-(x86-64\.so\.2|aarch64\.so\.1)|libcudart\.so\.\d+"
)
FOREIGN_PATH = re.compile(rb"/(?:home|root|tmp|work|build)/[\w./+-]+")


def output(*command: str, **environment: str) -> str:
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, **environment}
    ).stdout


def faults_of_library(path: Path) -> list[str]:
    found = []
    dynamic = output("readelf", "--dynamic", "--wide", str(path))
    for name in re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic):
        if not LIBRARIES.fullmatch(name):
            found.append(f"needs {name}")
    for paths in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic):
        found += [f"looks in {p}" for p in paths.split(":") if not p.startswith("$ORIGIN")]
    sections = output("readelf", "--sections", "--wide", str(path))
    if re.search(r"\.symtab|\.debug_", sections):
        found.append("is not stripped")
    packages = Path(torch.__file__).parents[1]  # CUDA's libraries are packages of their own
    folders = [packages / "torch" / "lib", *packages.glob("nvidia/*/lib")]
    missing = output("ldd", "-r", str(path), LD_LIBRARY_PATH=":".join(map(str, folders)))
    for symbol in re.findall(r"undefined symbol: (\w+)", missing):
        if not symbol.startswith(("Py", "_Py")):  # of the interpreter that loads the module
            found.append(f"wants {symbol}")
    found += [f"tells {p.decode()}" for p in set(FOREIGN_PATH.findall(path.read_bytes()))]
    return found


def faults(wheel: Path) -> list[str]:
    found = []
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        archive.extractall(folder)
        for name in names:
            if not any(re.fullmatch(pattern, name) for pattern in CONTENT):
                found.append(f"{name}: does not belong there")
        for pattern in CONTENT:
            if not any(re.fullmatch(pattern, name) for name in names):
                found.append(f"{pattern}: is missing")
        for name in names:
            path = Path(folder, name)
            if path.suffix == ".so":
                found += [f"{name}: {fault}" for fault in faults_of_library(path)]
            elif path.suffix == ".cmake" and FOREIGN_PATH.search(path.read_bytes()):
                found.append(f"{name}: has a path of the build machine")
    return found


if __name__ == "__main__":
    found = faults(Path(sys.argv[1]))
    print("\n".join(found) or f"{sys.argv[1]}: as it should be")
    sys.exit(bool(found))
