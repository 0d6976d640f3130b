# SPDX-License-Identifier: BSD-3-Clause
"""The interpreter of PTX that counts what kernels execute (tests/cuda/ptx)."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cuda"))

from model.launches import build, calls_of
from model.work import Shape
from ptx.code import parse_ptx
from ptx.count import codes, run
from ptx.machine import Block
from ptx.memory import LOGITS, REGION, ROW_LOSS, Memory
from ptx.operations import operation
from ptx.values import bits, decode, encode, literal, to_zero
from sass.toolkit import MissingToolError

# Where a test's kernels write.
OUT = 9 * REGION


def execute(body: str, threads: int = 32, dynamic: int = 0, classes: int = 10) -> Block:
    """A kernel of one parameter, where it writes."""
    text = f"""
.shared .align 8 .b8 everyones[64];
.visible .entry kernel(
\t.param .align 8 .b8 kernel_param_0[16],
\t.param .u64 kernel_param_1
)
.maxntid 256, 1, 1
{{
\t.reg .b32 %r<9>; // and others
\t.shared .align 8 .b8 own[128];
\tld.param.u64 %rd1, [kernel_param_1];
\tmov.u32 %r1, %tid.x;
\tmul.wide.u32 %rd2, %r1, 4;
\tadd.s64 %rd3, %rd1, %rd2;
{body}
\tret;
}}
"""
    memory = Memory("float", classes)
    parameters = [struct.pack("<qf4x", -7, 0.5), struct.pack("<q", OUT)]
    block = Block(parse_ptx(text)["kernel"], parameters, threads, dynamic, 3, 2, memory)
    block.run()
    return block


def written(block: Block, count: int = 32, type_: str = "s32") -> list[float]:
    return [decode(block.memory.load(OUT + 4 * i, 4), type_) for i in range(count)]


BEFORE, AFTER = 4, 1  # instructions


def test_a_loop_that_lanes_leave_one_by_one():
    """Each adds 2 as often as its number says; all of them are as long under way as the last."""
    block = execute("""
    mov.u32 %r2, 0;
    mov.u32 %r3, 0;
$L__BB0_1:
    setp.ge.u32 %p1, %r2, %r1;
    @%p1 bra $L__BB0_2;
    add.s32 %r3, %r3, 2;
    add.s32 %r2, %r2, 1;
    bra.uni $L__BB0_1;

$L__BB0_2:
    st.global.u32 [%rd3], %r3;
""")
    assert written(block) == [2 * lane for lane in range(32)]
    assert block.executed == BEFORE + 2 + 31 * 5 + 2 + 1 + AFTER


def test_guards_and_parameters():
    block = execute("""
    mov.b64 %rd4, kernel_param_0;
    ld.param.f32 %f1, [%rd4+8];
    setp.lt.s32 %p1, %r1, 3;
    @!%p1 mov.f32 %f1, 0fBF800000;
    st.global.f32 [%rd3], %f1;
""")
    assert written(block, type_="f32") == [0.5] * 3 + [-1.0] * 29
    assert block.executed == BEFORE + 5 + AFTER


def test_warps_meet_at_a_barrier():
    """Each thread takes what its opposite in the other warp left in shared memory."""
    block = execute(
        """
    mov.u32 %r2, own;
    shl.b32 %r3, %r1, 2;
    add.s32 %r3, %r3, everyones;
    st.shared.u32 [%r3], %r1;
    bar.sync 0;
    sub.s32 %r4, 63, %r1;
    shl.b32 %r4, %r4, 2;
    add.s32 %r4, %r4, everyones;
    ld.shared.u32 %r5, [%r4];
    st.global.u32 [%rd3], %r5;
""",
        threads=64,
        dynamic=256,
    )
    assert written(block, 64) == [63 - t for t in range(64)]
    assert block.executed == 2 * (BEFORE + 10 + AFTER)


@pytest.mark.parametrize(
    ("mode", "by", "source"),
    [("bfly", 3, lambda i: i ^ 3), ("idx", 5, lambda _: 5), ("down", 30, lambda i: i + 30)],
)
def test_shuffles(mode, by, source):
    block = execute(f"""
    mul.lo.s32 %r2, %r1, 10;
    shfl.sync.{mode}.b32 %r3|%p2, %r2, {by}, 31, -1;
    st.global.u32 [%rd3], %r3;
""")
    # Who has no source keeps its own.
    expected = [10 * (source(i) if source(i) < 32 else i) for i in range(32)]
    assert written(block) == expected


def test_votes():
    block = execute("""
    setp.lt.s32 %p1, %r1, 3;
    vote.sync.ballot.b32 %r2, %p1, -1;
    vote.sync.ballot.b32 %r3, !%p1, -1;
    add.s32 %r4, %r2, %r3;
    sub.s32 %r2, %r2, %r4;
    vote.sync.any.pred %p2, %p1, -1;
    bar.warp.sync -1;
    @!%p2 mov.u32 %r2, 0;
    st.global.u32 [%rd3], %r2;
""")
    assert written(block) == [8] * 32


def test_atomics():
    """Lanes add one after another; then one of them finds what it expects, and exchanges it."""
    block = execute("""
    atom.global.add.u64 %rd4, [%rd1], 2;
    bar.sync 0;
    membar.gl;
    atom.global.cas.b64 %rd5, [%rd1], 64, %rd2;
    atom.global.cas.b64 %rd5, [%rd1], 7, 5;
    add.s64 %rd3, %rd3, 8;
    cvt.u32.u64 %r2, %rd4;
    st.global.u32 [%rd3], %r2;
""")
    assert block.memory.load(OUT, 8) == 0  # lane 0's 4 * 0
    assert [block.memory.load(OUT + 8 + 4 * i, 4) for i in range(32)] == [2 * i for i in range(32)]


def test_what_is_of_double():
    block = execute("""
    mov.f64 %fd1, 0d3FF0000000000000;
    add.f64 %fd1, %fd1, %fd1;
    cvt.rn.f32.f64 %f1, %fd1;
    st.global.f32 [%rd3], %f1;
""")
    assert written(block, type_="f32") == [2.0] * 32
    assert [warp.fp64 for warp in block.warps] == [2]


def test_shared_memory():
    text = """
.extern .shared .align 16 .b8 shared[];
.shared .align 1 .u8 last;
.visible .entry kernel(
\t.param .u64 kernel_param_0
)
{
\t.shared .align 8 .b8 own[128];
\tret;
}
"""
    assert parse_ptx(text)["kernel"].shared == {"shared": 0, "last": 1, "own": 128}


def test_vectors():
    block = execute("""
    shl.b64 %rd4, %rd2, 2;
    add.s64 %rd5, %rd1, %rd4;
    mov.b64 {%r2, %r3}, %rd2;
    mov.b64 %rd6, {%r1, %r1};
    st.global.v2.u64 [%rd5], {%rd6, %rd2};
    ld.global.v4.u32 {%r4, %r5, %r6, %r7}, [%rd5];
    add.s32 %r6, %r6, %r5;
    add.s32 %r6, %r6, %r7;
    st.global.u32 [%rd5], %r6;
""")
    assert [block.memory.load(OUT + 16 * i, 4) for i in range(32)] == [5 * i for i in range(32)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("ld.global.v2.u32 {%r2, %r3}, [%rd3];", "a load of 8 bytes"),
        ("st.global.u32 [%rd3+2], %r1;", "a store of 4 bytes"),
        ("ld.shared.u32 %r2, [own+1000];", "a load of 4 bytes"),
        ("setp.eq.s32 %p1, %r1, 0; @%p1 bra $L_1; bar.sync 0; $L_1: bar.sync 0;", "a part of"),
    ],
)
def test_what_a_gpu_would_refuse(body, message):
    with pytest.raises(ValueError, match=message):
        execute(body)


@pytest.mark.parametrize(
    ("opcode", "values", "result"),
    [
        ("add.s32", (0x7FFFFFFF, 1), 0x80000000),
        ("mul.hi.u32", (0xFFFFFFFF, 16), 15),
        ("mul.wide.s32", (-2, 3), -6 % 2**64),
        ("mad.lo.s32", (3, 4, 5), 17),
        ("div.s64", (-7, 2), -3 % 2**64),
        ("shr.s32", (-8, 1), -4 % 2**32),
        ("shr.u32", (0xFFFFFFF8, 1), 0x7FFFFFFC),
        ("fma.rn.f32", (3.0, 4.0, 0.1), 12.100000381469727),
        ("add.rz.f32", (1.0, -(2.0**-30)), 1 - 2.0**-24),
        ("fma.rn.sat.f32", (2.0, 3.0, 0.0), 1.0),
        ("max.f32", (math.nan, 2.0), 2.0),
        ("ex2.approx.ftz.f32", (-1.0,), 0.5),
        ("div.rn.f32", (1.0, 0.0), math.inf),
        ("copysign.f32", (-1.0, 2.0), -2.0),
        ("cvt.rzi.s32.f32", (-2.7,), -2 % 2**32),
        ("cvt.rni.s32.f32", (2.5,), 2),
        ("cvt.rn.f32.f64", (0.1,), 0.10000000149011612),
        ("cvt.sat.f32.f32", (1.5,), 1.0),
        ("cvt.s64.s32", (-1,), -1 % 2**64),
        ("cvt.u32.u64", (2**32 + 5,), 5),
        ("cvt.f32.bf16", (0x3FC0,), 1.5),
        ("setp.neu.f32", (math.nan, 1.0), 1),
        ("setp.ne.f32", (math.nan, 1.0), 0),
        ("setp.ltu.f32", (math.nan, 1.0), 1),
        ("selp.b32", (7, 8, 0), 8),
        ("not.pred", (0,), 1),
    ],
)
def test_operations(opcode, values, result):
    to, from_, does = operation(opcode)
    taken = [decode(v, t) if t else v for v, t in zip(values, from_, strict=False)]
    assert encode(does(*taken), to) == result


def test_values():
    assert literal("0f3FC00000") == 1.5 and literal("0dBFF8000000000000") == -1.5
    assert literal("-12") == -12 and literal("0x1F") == 31 and literal("%r1") is None
    assert bits(1.5, "b32") == 0x3FC00000 and decode(0xFFFF, "s16") == -1
    assert [bits(x, "bf16") for x in (1.0, 1 + 2**-8, 1 + 3 * 2**-8)] == [0x3F80, 0x3F80, 0x3F82]
    assert bits(math.inf, "bf16") == 0x7F80
    assert to_zero(-1 - 2.0**-40) == -1 and to_zero(0.1) < 0.1


def test_what_is_in_memory():
    memory = Memory("BFloat16", 100)
    pair = memory.load(LOGITS * REGION + 4, 4)
    assert memory.read == {2, 3} and pair == memory.logit(3) << 16 | memory.logit(2)
    assert -4 <= decode(pair & 0xFFFF, "bf16") <= 4
    assert 0 <= memory.load(2 * REGION + 8 * 77, 8) < 100
    assert Memory("float", 100, target=9).load(2 * REGION + 8 * 77, 8) == 9


@pytest.mark.slow
@pytest.mark.parametrize(("storage", "tolerance"), [("float", 1e-6), ("BFloat16", 2e-2)])
@pytest.mark.parametrize("classes", [10, 33, 1000])
def test_rows_come_to_their_loss(storage, classes, tolerance):
    """What is counted is the kernel at work: each row that a block reads has the formula's loss."""
    try:
        every = codes(storage)
    except MissingToolError as error:
        pytest.skip(str(error))
    shape = Shape(65536, classes)
    (calls,) = calls_of(build([storage]), storage, "indices", [shape])
    launch = calls["forward_none"][0]
    _, memory = run(every[launch.kernel], launch, classes)
    rows = sorted({i // classes for i in memory.read})
    assert rows and len(memory.read) == len(rows) * classes
    type_ = memory.type
    size = 4 if storage == "float" else 2
    for row in rows:
        x = [decode(memory.logit(row * classes + c), type_) for c in range(classes)]
        y = memory.load(2 * REGION + 8 * row, 8)
        expected = math.log(sum(math.exp(v - x[y]) for v in x))
        loss = decode(memory.load(ROW_LOSS * REGION + size * row, size), type_)
        assert loss == pytest.approx(expected, rel=tolerance)
