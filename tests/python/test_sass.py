# SPDX-License-Identifier: BSD-3-Clause
"""What nvcc made of the CUDA kernels, without a GPU: see tests/cuda/sass.

A selection of types and architectures, which takes minutes to compile the first time; build/sass
keeps what was found until a source changes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[1] / "cuda"
sys.path.insert(0, str(CUDA))

from expect import executed, kernels, launches, table  # noqa: E402
from model.work import Launch  # noqa: E402
from ptx.count import Count, counts  # noqa: E402
from sass import toolkit  # noqa: E402
from sass.facts import Kernel, facts_of, parse_ptxas, survey  # noqa: E402
from sass.in_flight import asked  # noqa: E402
from sass.listing import parse_sass  # noqa: E402
from sass.occupancy import resident  # noqa: E402
from sass.toolkit import (  # noqa: E402
    ARCHITECTURES,
    QUICK_ARCHITECTURES,
    QUICK_STORAGE,
    STORAGE,
    MissingToolError,
)

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
        /*0030*/                   FFMA.SAT R8, R4, R5, R6 ;
        /*0040*/                   FFMA.SAT R8, R4, R5, R8 ;
        /*0050*/                   FFMA.SAT R8, R4, R5, R8 ;
        /*0060*/                   FFMA.SAT R8, R4, R5, R8 ;
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
    assert (kernel.loop, kernel.elements, kernel.loop_fp64, kernel.asked) == (8, 4, 0, 16)


def test_as_many_exponentials_as_logits():
    """Each saturates, on sm_100 in an addition."""
    text = LISTING
    for left in (4, 3):
        ((mangled, code),) = parse_sass(text).items()
        kernel = facts_of(100, mangled, code, {})
        assert kernel is not None
        assert kernel.elements == (4 if left == 4 else 0)
        text = text.replace("FFMA.SAT R8, R4, R5, R8", "FADD.SAT R8, R4, R8", 2)
        text = text.replace("FFMA.SAT R8, R4, R5, R6", "FADD R8, R4, R6")


def test_a_shorter_way_round():
    """Where a part of a round is left out, the way of the whole round counts."""
    text = LISTING.replace(
        "/*0050*/                   FFMA.SAT",
        "/*0048*/               @P2 BRA `(.L_x_1) ;\n        /*0050*/                   FFMA.SAT",
    )
    ((mangled, code),) = parse_sass(text).items()
    kernel = facts_of(90, mangled, code, {})
    assert kernel is not None
    assert (kernel.loop, kernel.elements) == (9, 4)


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


REGISTERS = [
    "LDG.E.128 R4, desc[UR4][R2.64]",
    "@P0 LDG.E.128.CONSTANT R8, desc[UR4][R2.64+0x100]",
    "IADD3 R2, R2, 0x200, RZ",
    "FFMA R20, R6, R21, R22",  # waits for the first
    "LDG.E.128 R12, [R2]",
    "LDG.E.128 R4, [R2+0x100]",
    "LDG.E R30, [R14]",  # waits for the third, and is no vector itself
    "FFMA R20, R4, R21, R22",
]


def test_what_is_asked_for_at_once():
    """At most the second, third and fourth of these loads."""
    vectors = r"LDG\S*\.128\b"
    assert asked(REGISTERS[:4], vectors, 16) == 2 * 16
    assert asked(REGISTERS, vectors, 16) == 3 * 16
    assert asked(REGISTERS[5:6] + REGISTERS[:2], vectors, 16) == 2 * 16  # R4 waits for R4
    assert asked(REGISTERS, r"LDG\.E$", 4) == 4
    assert asked([], vectors, 16) == 0


@pytest.mark.parametrize(
    ("arch", "threads", "registers", "shared", "blocks"),
    [
        (90, 256, 64, 0, 4),  # 65536 / (64 * 256)
        (90, 256, 59, 0, 4),  # 59 * 32 = 1888, of which 2048 are taken
        (90, 128, 91, 0, 5),  # 3072 a warp: five for each scheduler
        (90, 96, 48, 868, 13),  # 1536 a warp: ten for each scheduler, 40 in all, three a block
        (90, 256, 16, 0, 8),  # 2048 threads
        (90, 32, 16, 0, 32),  # no more blocks than that
        (90, 128, 16, 21000, 10),  # 228 KB / (21000 + 1024, in pieces of 128)
        (75, 256, 64, 0, 4),  # 1024 threads
        (75, 32, 16, 0, 16),
        (75, 128, 16, 16384, 4),  # 64 KB, all of it the blocks' own
        (75, 128, 16, 16385, 3),  # in pieces of 256
        (86, 32, 16, 0, 16),
        (120, 32, 16, 0, 24),
    ],
)
def test_occupancy(arch, threads, registers, shared, blocks):
    """Each is what the toolkit's cuda_occupancy.h says."""
    assert resident(arch, threads, registers, shared) == blocks


# Kernels that are as they shall be, and in a launch.
FACTS = {
    "registers": 64, "ldg128": 4, "stg128": 4, "loop": 200, "elements": 16, "asked": 64
}  # fmt: skip
NAME = "rows_backward<indices, 32>"
LAUNCHES = {
    (storage, name): Launch(name, storage, 32, 1, 256, 0)
    for storage in ("float", "BFloat16")
    for name in (NAME, NAME.replace("indices", "probabilities"))
}


def of_all_architectures(storage: str = "float", name: str = NAME, **facts: int) -> list[Kernel]:
    return [Kernel(arch, name, storage, **{**FACTS, **facts}) for arch in ARCHITECTURES]


def test_expectations_that_are_made_are_met():
    found = of_all_architectures()
    found[-1].loop = 100  # not alike: each architecture has a limit of its own
    limits = kernels.made(found, LAUNCHES)
    instructions = [14, 14, 14, 14, 14, 14, 7]  # 12.5 and a twentieth; 6.25 likewise
    expected = {"instructions": instructions, "in_flight": 64}
    assert limits == {NAME: {"float": expected}}
    assert list(kernels.missed(found, LAUNCHES, limits)) == []


@pytest.mark.parametrize(
    ("facts", "fault"),
    [
        ({"spills": 8}, "spills"),
        ({"local": 1}, "spills"),
        ({"stack": 8}, "spills"),
        ({"loop": 0, "elements": 0}, "no hot loop was found"),
        ({"loop_fp64": 1}, "double in the hot loop"),
        ({"loop_exp2": 16}, "1.0 EX2 an element"),
        ({"stg128": 0, "stg64": 4}, "no stores of 128 bits"),
        ({"loop": 232}, "14.5 instructions an element, of 14"),
        ({"registers": 65}, "48 KB in flight, of 64"),
        ({"asked": 48}, "48 KB in flight, of 64"),
        ({"shared": 60000}, "48 KB in flight, of 64"),
    ],
)
def test_what_a_kernel_misses(facts, fault):
    limits = kernels.made(of_all_architectures(), LAUNCHES)
    found = of_all_architectures()
    found[4] = Kernel(90, NAME, "float", **{**FACTS, **facts})
    assert list(kernels.missed(found, LAUNCHES, limits)) == [f"sm_90 float {NAME}: {fault}"]


def test_exponentials_of_half_types():
    found = of_all_architectures("BFloat16", loop_exp2=16)
    limits = kernels.made(found, LAUNCHES)
    assert list(kernels.missed(found, LAUNCHES, limits)) == []
    found[0].loop_exp2 = 8
    (fault,) = kernels.missed(found, LAUNCHES, limits)
    assert fault == f"sm_75 BFloat16 {NAME}: 0.5 EX2 an element"


def test_stores_of_planes():
    """Of four neighbouring rows of half types, 64 bits."""
    name = "planes_backward<indices, 4>"
    launched = {("Half", name): Launch(name, "Half", 4, 1, 128, 0)}
    found = of_all_architectures("Half", name, loop_exp2=16, stg128=0, stg64=4)
    limits = kernels.made(found, launched)
    assert list(kernels.missed(found, launched, limits)) == []
    found[0].stg64 = 0
    fault = f"sm_75 Half {name}: no stores of 64 bits"
    assert list(kernels.missed(found, launched, limits)) == [fault]


def test_kernels_that_come_and_go():
    """Of types and architectures that are asked about."""
    limits = kernels.made([*of_all_architectures(), *of_all_architectures("BFloat16")], LAUNCHES)
    found = of_all_architectures()
    found[0].name = "new"
    assert list(kernels.missed(found, LAUNCHES, limits)) == [
        "sm_75 float new: not expected",
        f"sm_75 float {NAME}: is not there",
    ]


def test_probabilities_are_loaded_by_vectors():
    name = NAME.replace("indices", "probabilities")
    found = [*of_all_architectures(), *of_all_architectures(name=name, ldg128=8)]
    limits = kernels.made(found, LAUNCHES)
    assert list(kernels.missed(found, LAUNCHES, limits)) == []
    found[-1].ldg128 = 4
    fault = f"sm_120 float {name}: no vectors of probabilities"
    assert list(kernels.missed(found, LAUNCHES, limits)) == [fault]


def test_what_a_call_launches():
    finish = Launch("finish", "float", 0, 1, 256, 0)
    calls = {"forward": [LAUNCHES["float", NAME], finish], "backward": [LAUNCHES["float", NAME]]}
    recorded = {("float", "9x9", terms): calls for terms in ("indices", "smoothed")}
    recorded["float", "9x9", "probabilities"] = {"forward": [finish], "backward": [finish]}
    limits = launches.made(recorded)
    assert limits == {
        "9x9": {
            "indices, smoothed": {"forward": "rows_backward, finish", "backward": "rows_backward"},
            "probabilities": {"forward": "finish", "backward": "finish"},
        }
    }
    assert list(launches.missed(recorded, limits)) == []
    recorded["float", "9x9", "smoothed"] = {"forward": [finish], "backward": []}
    assert list(launches.missed(recorded, limits)) == [
        "9x9 float smoothed forward: finish, not rows_backward, finish",
        "9x9 float smoothed backward: , not rows_backward",
    ]


def test_what_is_executed():
    counts = [Count("float", call, 33, 99.5) for call in ("forward", "backward")]
    limits = executed.made(counts)
    assert limits == {"float": {"forward": {"33": 105}, "backward": {"33": 105}}}
    assert list(executed.missed(counts, limits)) == []
    more = [Count("float", "backward", 33, 105.25)]
    fault = "float backward of 33 classes: 105.2 instructions a logit in all, of 105"
    assert list(executed.missed(more, limits)) == [fault]


def test_expectations_are_written_as_they_are_read():
    assert table.text(table.read()) == table.FILE.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "storage"),
    SELECTION,
    ids=lambda part: part if isinstance(part, int) else "-".join(part),
)
def test_nothing_is_missed(arch, storage):
    jobs = int(os.environ.get("MAX_JOBS", "1"))
    try:
        found = survey([arch], storage, jobs)
    except MissingToolError as error:
        pytest.skip(str(error))
    recorded = launches.record(storage, jobs)
    expected = table.read()["kernels"]
    assert list(kernels.missed(found, launches.of_kernels(recorded), expected)) == []


@pytest.mark.slow
def test_launches():
    recorded = launches.record(list(STORAGE), int(os.environ.get("MAX_JOBS", "1")))
    assert list(launches.missed(recorded, table.read()["launches"])) == []
    # Each kernel is launched by one of these calls.
    listed = {(s, name) for name, types in table.read()["kernels"].items() for s in types}
    assert launches.of_kernels(recorded).keys() == listed


@pytest.mark.slow
def test_instructions_of_short_rows():
    try:
        found = list(counts(int(os.environ.get("MAX_JOBS", "1"))))
    except MissingToolError as error:
        pytest.skip(str(error))
    assert list(executed.missed(found, table.read()["executed"])) == []
