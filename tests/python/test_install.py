# SPDX-License-Identifier: BSD-3-Clause
"""What a build says where it cannot be, and what the package says of itself: build_tools/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from build_tools import lacks, metadata

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
INSTALL = "pip install --no-build-isolation ."


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a compiler, cmake and ninja that answer as they should, and nothing else."""
    for name, answer in {"c++": "", "cmake": "echo cmake version 3.22.1", "ninja": ""}.items():
        program(tmp_path / name, answer)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for name in ("CXX", "CMAKE_ARGS", "CMAKE_GENERATOR"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def program(path: Path, answer: str) -> None:
    path.write_text(f"#!/bin/sh\n{answer}\n")
    path.chmod(0o755)


def test_nothing_is_missing(machine: Path) -> None:
    assert list(lacks.lacks()) == []


def test_no_torch_tells_of_build_isolation(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    (line,) = lacks.lacks()
    assert "build isolation" in line and line.endswith(INSTALL)


@pytest.mark.parametrize("version", ["2.10.0", "2.9.1+cpu", "1.13.1"])
def test_an_old_torch(machine: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version))
    (line,) = lacks.lacks()
    assert line.startswith(f"needs torch 2.11, and this is {version}: pip install 'torch>=2.11'")


@pytest.mark.parametrize("version", ["2.11.0", "2.15.0.dev20261101+cpu", "3.0.0"])
def test_a_torch_that_is_new_enough(
    machine: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__=version))
    assert list(lacks.lacks()) == []


def test_no_headers_of_python(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(machine))
    (line,) = lacks.lacks()
    assert re.search(r": sudo apt-get install python3\.\d+-dev$", line)


def test_no_compiler(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMAKE_ARGS", "-DCMAKE_CXX_COMPILER=/opt/g++")
    (machine / "c++").unlink()
    assert list(lacks.lacks()) == []  # CMake is told which
    monkeypatch.delenv("CMAKE_ARGS")
    (line,) = lacks.lacks()
    assert line.endswith("sudo apt-get install g++")
    program(machine / "clang++", "")
    assert list(lacks.lacks()) == []
    monkeypatch.setenv("CXX", "g++-99 -m64")
    assert list(lacks.lacks()) == [line]


def test_a_compiler_without_cxx20(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(machine / "c++", "exit 1")
    (line,) = lacks.lacks()
    assert "and c++ does not: CXX=g++-12 pip install" in line


@pytest.mark.parametrize(("standard", "count"), [("17", 1), ("20", 0)])
def test_the_compiler_of_this_machine_is_asked(
    monkeypatch: pytest.MonkeyPatch, standard: str, count: int
) -> None:
    """As gcc 10 answers: it takes -std=c++20, and is not there yet."""
    monkeypatch.setenv("CXX", f"c++ -U__cplusplus -D__cplusplus=20{standard}09L -w")
    monkeypatch.delenv("CMAKE_ARGS", raising=False)
    assert sum("C++20" in line for line in lacks.lacks()) == count


@pytest.mark.parametrize("answer", [None, "echo cmake version 3.16.3", "exit 1"])
def test_no_cmake_or_an_old_one(machine: Path, answer: str | None) -> None:
    (machine / "cmake").unlink()
    if answer:
        program(machine / "cmake", answer)
    (line,) = lacks.lacks()
    assert line == "needs CMake 3.22 or newer: pip install cmake ninja"


def test_neither_ninja_nor_make(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "ninja").unlink()
    (line,) = lacks.lacks()
    assert line.endswith("pip install ninja")
    program(machine / "make", "")
    assert list(lacks.lacks()) == []


def test_old_setuptools() -> None:
    assert lacks.setuptools_lack("77.0.1") is None
    line = lacks.setuptools_lack("68.1.2")
    assert line is not None and line.endswith("68.1.2: pip install 'setuptools>=77'")


def test_cmakes_own_words_are_one_line() -> None:
    errors = (
        "CMake Warning: something else\n\n"
        "CMake Error at cmake/FusedCECuda.cmake:72 (message):\n"
        "  fused_ce: CUDA was asked for, but nvcc is not found:\n"
        "  CUDA_HOME=/usr/local/cuda says where\n"
        "Call Stack (most recent call first):\n  CMakeLists.txt:6 (fused_ce_cuda_decide)\n\n"
    )
    assert lacks.reason(errors) == (
        "cannot be built here: CUDA was asked for, but nvcc is not found: "
        "CUDA_HOME=/usr/local/cuda says where"
    )
    assert lacks.reason("CMake Error: No source\n").endswith("CMake says why above")


def test_the_line_is_the_last_of_the_build(machine: Path) -> None:
    (machine / "c++").unlink()
    result = subprocess.run(
        [PYTHON, "setup.py", "build_ext"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last == "fused_ce needs a C++ compiler: sudo apt-get install g++"


def test_the_index_page_has_no_relative_link() -> None:
    page = metadata.long_description()
    targets = [
        match["target"]
        for match in metadata._CODE_OR_TARGET.finditer(page)
        if match["target"] is not None
    ]
    assert len(targets) > 5
    assert [t for t in targets if not t.startswith(("https://", "#"))] == []


def test_links_lead_to_files_of_the_version() -> None:
    page = metadata.long_description()
    version = metadata._line("python/fused_ce/__init__.py", "__version__")
    source = metadata._line("pyproject.toml", "Source")
    paths = re.findall(rf"{re.escape(source)}/(?:blob|raw)/v{version}/([^\s)\"#]+)", page)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_links_and_images_become_absolute() -> None:
    text = (
        "[![a](b.png)](docs/c.md#d) [e](https://f.org/g) [h](#i) [j](mailto:k@l.org)\n"
        '<img width="9" src="m/n.svg"> `o[0](p)`\n```python\nq[0](r)\n```\n'
    )
    assert metadata.absolute(text, "https://x.org/y", "1.2") == (
        "[![a](https://x.org/y/raw/v1.2/b.png)](https://x.org/y/blob/v1.2/docs/c.md#d) "
        "[e](https://f.org/g) [h](#i) [j](mailto:k@l.org)\n"
        '<img width="9" src="https://x.org/y/raw/v1.2/m/n.svg"> `o[0](p)`\n'
        "```python\nq[0](r)\n```\n"
    )


def test_a_release_wheel_names_its_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(__version__="2.13.1+cu130", version=SimpleNamespace(cuda="13.0"))
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.delenv("FUSED_CE_RELEASE_WHEEL", raising=False)
    monkeypatch.delenv("FORCE_CUDA", raising=False)
    said = metadata.metadata()
    assert said["install_requires"] == ["torch>=2.11"] and "options" not in said

    monkeypatch.setenv("FUSED_CE_RELEASE_WHEEL", "1")
    monkeypatch.setenv("FORCE_CUDA", "1")
    said = metadata.metadata()
    assert said["install_requires"] == ["torch==2.13.*"]
    assert said["options"] == {"egg_info": {"tag_build": "+torch2.13cu130"}}

    monkeypatch.delenv("FORCE_CUDA")
    said = metadata.metadata()
    assert said["options"] == {"egg_info": {"tag_build": "+torch2.13cpu"}}
    assert os.environ["FORCE_CUDA"] == "0"
