# SPDX-License-Identifier: BSD-3-Clause
"""What nvcc made of the CUDA kernels, without a GPU: see tests/cuda/sass.

A selection of types and architectures, which takes minutes to compile the first time; build/sass
keeps what was found until a source changes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[1] / "cuda"
sys.path.insert(0, str(CUDA))

from sass import toolkit  # noqa: E402
from sass.facts import Kernel, facts_of, parse_ptxas, survey  # noqa: E402
from sass.listing import parse_sass  # noqa: E402
from sass.toolkit import QUICK_ARCHITECTURES, QUICK_STORAGE, MissingToolError  # noqa: E402

EXPECTED = json.loads((CUDA / "expected.json").read_text())
# The architecture that has the fewest registers to spare for double stands for the others.
SELECTION = [
    *((arch, QUICK_STORAGE) for arch in QUICK_ARCHITECTURES),
    (100, ["double", "Half"]),
]

# A loop of whole vectors, with a way for the rows' ends that is longer and has no vector.
LISTING = """
\t.section\t.text._ZN8fused_ce4cuda12rows_forwardIfLNS0_5TermsE0ELi32EEEvNS_7ProblemE,"ax",@progbits
.L_x_0:
        /*0000*/                   ISETP.GE.AND P0, PT, R0, R1, PT ;
        /*0010*/               @P0 BRA `(.L_x_2) ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   FFMA R8, R4, R5, R6 ;
        /*0040*/                   FFMA R8, R4, R5, R8 ;
        /*0050*/                   FFMA R8, R4, R5, R8 ;
        /*0060*/                   FFMA R8, R4, R5, R8 ;
.L_x_1:
        /*0070*/               @P1 BRA `(.L_x_0) ;
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   LDG.E R4, desc[UR4][R2.64] ;
        /*00a0*/                   DADD R4, R4, R6 ;
        /*00b0*/                   BRA `(.L_x_1) ;
"""


def test_reading_a_listing():
    ((mangled, code),) = parse_sass(LISTING).items()
    kernel = facts_of(90, mangled, code, {"registers": 40})
    assert kernel is not None
    assert (kernel.name, kernel.storage) == ("rows_forward<indices, 32>", "float")
    assert (kernel.instructions, kernel.ldg128, kernel.fp64) == (12, 1, 1)
    assert (kernel.loop, kernel.elements, kernel.loop_fp64) == (8, 4, 0)


def test_ptxas_log():
    log = """\
ptxas info    : Compiling entry function 'f' for 'sm_90'
ptxas info    : Function properties for f
    8 bytes stack frame, 12 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 704 bytes smem
"""
    facts = {"stack": 8, "stores": 12, "loads": 16, "registers": 48, "shared": 704}
    assert parse_ptxas(log) == {"f": facts}


def test_a_stamp_is_of_the_code_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(toolkit, "ROOT", tmp_path)
    monkeypatch.setattr(toolkit, "CUDA", tmp_path / "tests")
    kernels, tool = tmp_path / "kernels" / "cuda", tmp_path / "tests" / "sass"
    kernels.mkdir(parents=True)
    tool.mkdir(parents=True)
    header, source, script = tmp_path / "kernels" / "problem.h", kernels / "a.cu", tool / "b.py"
    stamps = []
    for file, text in [
        (header, "int h;"),
        (source, "int a;  // why\n"),
        (script, "c = 1"),
        (source, "// Why.\nint a;\n"),
        (source, "int b;\n"),
        (script, "c = 2"),
        (header, "long h;"),
    ]:
        file.write_text(text)
        if script.exists():
            stamps.append(toolkit.stamp("sass"))
    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 4


@pytest.fixture(
    scope="module",
    params=[pytest.param(part, marks=pytest.mark.slow) for part in SELECTION],
    ids=lambda part: f"sm_{part[0]}-{'-'.join(part[1])}",
)
def kernels(request: pytest.FixtureRequest) -> list[Kernel]:
    try:
        jobs = int(os.environ.get("MAX_JOBS", "1"))
        arch, storage = request.param
        return survey([arch], storage, jobs)
    except MissingToolError as error:
        pytest.skip(str(error))


def names(kernels: list[Kernel]) -> list[str]:
    return [f"{k.storage} {k.name}" for k in kernels]


def test_every_kernel_is_expected(kernels):
    found = {(k.storage, k.name) for k in kernels}
    storage = {k.storage for k in kernels}
    assert found == {(s, n) for n, e in EXPECTED.items() for s in e["instructions"] if s in storage}


def test_nothing_spills(kernels):
    assert names([k for k in kernels if k.spills or k.local or k.stack]) == []


def test_registers(kernels):
    over = [k for k in kernels if k.registers > EXPECTED[k.name]["registers"][k.storage]]
    assert [(k.storage, k.name, k.registers) for k in over] == []


def test_vector_loads_and_stores(kernels):
    """128 bits, or 64 for four neighbouring rows of half types."""
    lost = []
    for kernel in kernels:
        bits = EXPECTED[kernel.name].get("bits", {}).get(kernel.storage)
        if bits is None:
            continue
        loads, stores = (
            (kernel.ldg128, kernel.stg128) if bits == 128 else (kernel.ldg64, kernel.stg64)
        )
        if loads == 0 or ("backward" in kernel.name and stores == 0):
            lost.append(kernel)
    assert names(lost) == []


def test_probabilities_are_loaded_by_vectors(kernels):
    """Their kernels have loads for them that those of class indices have not.

    Not asked of double, where a linear sum has fewer loads of logits under way.
    """
    loads = {(k.storage, k.name): k.ldg128 for k in kernels}
    lost = []
    for kernel in kernels:
        without = kernel.name.replace("probabilities", "indices")
        vectors = "bits" in EXPECTED[kernel.name] and kernel.storage != "double"
        if vectors and "probabilities" in kernel.name:
            lost += [kernel] * (kernel.ldg128 <= loads[kernel.storage, without])
    assert names(lost) == []


def test_hot_loops_are_found(kernels):
    assert names([k for k in kernels if k.loop == 0 and k.name in EXPECTED]) == []


def test_hot_loops_have_no_double(kernels):
    over = [k for k in kernels if k.loop_fp64 and k.storage != "double"]
    assert [(k.storage, k.name, k.loop_fp64) for k in over] == []


def test_exponentials(kernels):
    """Made of IEEE operations for float, double; the hardware's, one an element, for half types."""
    expected = {"float": 0.0, "double": 0.0, "BFloat16": 1.0, "Half": 1.0}
    wrong = [k for k in kernels if k.exp2_per_element != expected[k.storage]]
    assert [(k.storage, k.name, k.exp2_per_element) for k in wrong] == []


def test_instructions(kernels):
    """An element of the hot loop: where it is more, the loop has lost its shape."""
    over = [k for k in kernels if k.per_element > EXPECTED[k.name]["instructions"][k.storage]]
    assert [(k.storage, k.name, k.per_element) for k in over] == []
