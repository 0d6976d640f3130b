# SPDX-License-Identifier: BSD-3-Clause
"""The model of the CUDA kernels' speed (tests/cuda/model): its arithmetic, by hand. No nvcc."""

from __future__ import annotations

import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "cuda"))

from model import multiprocessor, tables
from model.__main__ import CALLS, SHAPES
from model.estimate import LAUNCH, START, Estimate, estimate, serial, totals
from model.gpus import Device
from model.launches import build, calls_of, parse
from model.multiprocessor import (
    Ask,
    Await,
    Barrier,
    Cached,
    Limits,
    Load,
    Loop,
    Multiprocessor,
    Step,
    Store,
    Straight,
)
from model.programs import PROGRAMS, program
from model.taken import shortened
from model.work import Launch, Shape, Taken, Work
from sass.facts import Kernel
from sass.occupancy import WARP
from sass.roofline import Gpu, Roof

# Two bytes a cycle, and half a warp of doubles.
LIMITS = Limits(bytes_a_cycle=2, fp64_lanes=16, resident=2, start=10)


@pytest.fixture(autouse=True)
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Latencies are what they are said to be."""
    monkeypatch.setattr(multiprocessor, "BUSY", 1.0)
    monkeypatch.setattr(multiprocessor, "SPREAD", 0.0)


def run(steps: list[Step], warps: int = 1, blocks: int = 1) -> float:
    return Multiprocessor(LIMITS).run(lambda *_: iter(steps), warps, range(blocks))


@pytest.mark.parametrize(
    ("steps", "cycles"),
    [
        ([], 10),
        ([Load(64, 100)], 10 + 32 + 100),
        ([Cached(40)], 10 + 40),
        ([Store(64)], 10 + 32),  # its bytes have to be gone in the end
        ([Loop(30)], 10 + 30),
        ([Straight(30)], 10 + 4 * 30),
        ([Straight(1, fp64=30)], 10 + 2 * 30),
        ([Load(64, 100), Store(20), Loop(7)], 10 + 32 + 100 + 10),
        ([Ask(64, 100), Loop(30), Await()], 10 + 32 + 100),
        ([Ask(64, 100), Loop(300), Await()], 10 + 300),
        ([Ask(2, 100), Ask(64, 100), Await(), Await()], 10 + 1 + 32 + 100),
    ],
)
def test_one_warp(steps, cycles):
    assert run(steps) == cycles


def test_warps_take_turns_at_the_memory_and_wait_together():
    assert run([Load(64, 100)], warps=8) == 10 + 8 * 32 + 100


def test_warps_share_four_schedulers():
    assert run([Loop(30)], warps=4) == 10 + 30
    assert run([Loop(30)], warps=6) == 10 + 2 * 30


def test_dependent_instructions_leave_slots_to_others():
    assert run([Straight(30)], warps=16) == 10 + 4 * 30
    assert run([Straight(30)], warps=20) == 10 + 5 * 30


def test_a_barrier_waits_for_the_last():
    def steps(_, warp):
        yield Cached(50 * warp)
        yield Barrier()

    assert Multiprocessor(LIMITS).run(steps, 3, [0]) == 10 + 100 + 4


def test_blocks_follow_each_other():
    assert run([Cached(50)], blocks=2) == 60
    assert run([Cached(50)], blocks=5) == 3 * 60
    # Three of them take a place each time that it becomes free, in their order.
    assert Multiprocessor(LIMITS).run(lambda b, _: iter([Cached(b)]), 1, [50, 9, 8]) == 60


def kernel(**facts):
    return Kernel(90, "", "float", **facts)


def test_names_of_shapes():
    assert Shape.named("64x10") == Shape(64, 10)
    assert Shape.named("8x21x512x512") == Shape(8, 21, 512 * 512)
    assert tables.title("8x21x512x512") == "(8, 21, 512, 512)"


def test_figures():
    made = Estimate(4, 1, 64, 1, 1, 1, 2, 100, reached=0.8769, best=0.9)
    results = [tables.Result("H100", "64x10", "BFloat16", "forward", made)]
    assert tables.figures(results) == {"H100": {"64x10 bfloat16 forward": 87.7}}


# A GPU of two multiprocessors, whose memory gives each 10 bytes a cycle of 0.93 nanoseconds.
SMALL = Device(Gpu("small", 2, 1.0, 0.02 / 0.93, fma=128, fp64=32), 90, 100, 50)


def work(launch: Launch, shape: Shape, **facts: int) -> Work:
    """Its loop has 100 instructions, and 1 of 128 an element's cycle is theirs."""
    elements = facts.setdefault("elements", 16)
    roof = Roof("H100", 0, 100 / elements / 128 / (132 * 1.755) * 1e3, "issue")
    facts = {"registers": 64, "asked": 4 * elements, **facts}
    made = kernel(loop=100, roof=roof, **facts)
    return Work(launch, shape, made, SMALL)


def tiles(count: int, rows: int) -> bytes:
    return struct.pack("<I4xq", count, rows)


def of_rows(team: int, count: int, persistent: bool = False) -> Launch:
    """Forward, of tiles of as many rows as a block has teams."""
    name, arguments = f"rows_forward<indices, {team}>", (b"", tiles(count, 256 // team))
    return Launch(name, "float", team, count, 256, 0, arguments, persistent)


def of_pieces(function: str, team: int, blocks: int, pieces: int, classes: int) -> Launch:
    arguments = (b"", struct.pack("<q", pieces), struct.pack("<q", classes))
    return Launch(f"{function}<indices, {team}>", "float", team, blocks, 256, 0, arguments, True)


def loads_of(work: Work, block: int = 0, warp: int = 0) -> list[float]:
    return [s.size for s in program(work)(block, warp) if isinstance(s, Load)]


def slots_of(work: Work) -> float:
    return sum(s.slots for s in program(work)(0, 0) if isinstance(s, Loop))


def test_a_row_by_a_block():
    """32000 classes are 8000 vectors: 32 of a thread in two warps, eight rounds; 31 in the others.

    The target's logit comes with the first.
    """
    one = work(of_rows(256, 4), Shape(4, 32000))
    assert one.slots == pytest.approx(100)
    assert one.round == WARP * 64
    targets, first, *row = loads_of(one)
    assert targets == 8 * 8
    assert first == 2048 + 32
    assert row == [2048] * 7
    assert loads_of(one, warp=2)[1:] == [2048 + 32] + [2048] * 6 + [1536]


def test_loads_that_wait_for_one_another():
    """Three of four vectors are asked for at once: the last comes when the first is there."""
    one = work(of_rows(256, 1), Shape(1, 4096), asked=48)
    steps = list(program(one)(0, 1))
    assert [s.size for s in steps if isinstance(s, Load)] == [64, 1536 + 32]
    assert [s.size for s in steps if isinstance(s, Ask)] == [512]
    assert sum(isinstance(s, Await) for s in steps) == 1
    assert [s.slots for s in steps if isinstance(s, Loop)] == pytest.approx([75, 25])


def test_a_last_round():
    """Rows are computed with as if it were full; of five planes three more to make up two fours."""
    row = work(of_rows(256, 1), Shape(1, 2 * 4096 + 1024 + 4))
    whole = work(of_rows(256, 1), Shape(1, 2 * 4096))
    assert slots_of(row) == pytest.approx(slots_of(whole) * 3 / 2)
    launch = Launch("planes_forward<indices, 4>", "float", 4, 1, 128, 0, (b"", tiles(1, 512)))
    planes = [work(launch, Shape(1, classes, 512), elements=64) for classes in (16, 21)]
    assert slots_of(planes[1]) == pytest.approx(slots_of(planes[0]) * 3 / 2)


def test_an_odd_vector():
    """A thread's ninth is asked for with the first round, and computed with beside the loop.

    So is what its warp's others have first: 32 vectors. Of other warps nobody has nine.
    """
    odd = work(of_rows(256, 1), Shape(1, 2 * 4096 + 4))
    whole = work(of_rows(256, 1), Shape(1, 2 * 4096))
    assert slots_of(odd) == slots_of(whole)
    assert loads_of(odd)[1:] == [2048 + 512 + 32, (2 * 128 + 1 - 128 - 32) * 16]
    assert loads_of(odd, warp=1) == loads_of(whole, warp=1)


def test_classes_in_no_vector():
    """Three, which the first warp asks for with the first round."""
    ends = work(of_rows(256, 1), Shape(1, 4096 + 3))
    whole = work(of_rows(256, 1), Shape(1, 4096))
    assert slots_of(ends) == slots_of(whole)
    assert loads_of(ends)[1:] == [2048 + 12 + 32]
    assert loads_of(ends, warp=1) == loads_of(whole, warp=1)


@pytest.mark.parametrize(("team", "rows"), [(8, 32), (32, 8), (256, 1)])
@pytest.mark.parametrize("classes", [33, 1000, 1001, 4096, 4100, 50257])
def test_every_byte_is_read_and_written_once(team, rows, classes):
    """By the eight warps of a block that has so many rows."""
    launch = of_pieces("rows_backward", team, 5, 1, classes)
    backward = work(launch, Shape(5 * rows, classes))
    steps = [step for warp in range(8) for step in program(backward)(0, warp)]
    logits = rows * classes * 4
    saved = rows * 20
    assert sum(s.size for s in steps if isinstance(s, Load)) - saved == pytest.approx(logits)
    assert sum(s.size for s in steps if isinstance(s, Store)) == pytest.approx(logits)


def test_a_slice_of_a_row():
    """Two rows of 8192 in two pieces each: a target, and one round of a block."""
    launch = of_pieces("slices_forward", 0, 4, 2, 4096)
    assert loads_of(work(launch, Shape(2, 8192))) == [32, 2048 + 32]


def test_as_many_blocks_as_there_is_room_for():
    """Two multiprocessors have eight at once, which take turns."""
    few, many = of_rows(256, 9), of_rows(256, 9, persistent=True)
    assert work(few, Shape(9, 4096)).blocks == 9
    one = work(many, Shape(9, 4096))
    assert one.blocks == 8
    assert [len(loads_of(one, block, warp=1)) for block in range(8)] == [3] + [2] * 7


def test_rows_that_wait_together():
    """One warp finishes eight rows of a block at a time, and asks for the next ones' targets."""
    one = work(
        replace(of_rows(256, 20), blocks=20, persistent=True), Shape(20, 4096), registers=255
    )
    one = replace(one, device=replace(SMALL, gpu=replace(SMALL.gpu, sms=1)))
    assert one.blocks == 1
    asked = [s.size for s in program(one)(0, 0) if isinstance(s, Ask)]
    assert asked == [8 * 8, 8 * 8, 4 * 8]
    assert [s for s in program(one)(0, 1) if isinstance(s, Ask)] == []


def test_planes():
    """21 planes: the targets, five rounds of four planes, and one plane."""
    arguments = (b"", tiles(1, 512))
    launch = Launch("planes_forward<indices, 4>", "float", 4, 1, 128, 0, arguments)
    loads = loads_of(work(launch, Shape(1, 21, 512)))
    assert loads == [WARP * 4 * 8] + [2048] * 5 + [512]


def test_tiles_of_some_turns():
    """Of 1000 rows of ten classes: two tiles of 512, the last of which is not full."""
    launch = Launch("few_forward<indices>", "float", 0, 2, 128, 0, (b"", tiles(2, 512)))
    one = work(launch, Shape(1000, 10), elements=4, asked=32)
    loads = [loads_of(one, block) for block in range(2)]
    assert loads == [[32 * 8, 32 * 32, 32 * 8] * 4] * 2


def test_serial_time():
    """Start, targets, the first of two rounds, the row's end, the finish, the ticket."""
    taken = Taken(item=100, batch=200)
    one = replace(work(of_rows(256, 1), Shape(1, 8192 + 1024 + 4)), taken=taken)
    cycles = START + 3 * 100 * 1.25 + 4 * (100 + 200) + 3 * 50
    assert serial(one) == pytest.approx(cycles / 1e3, rel=0.05)


def test_totals():
    """A mean's two sums of 4096 tiles: four times 1024 of them, from the cache."""
    one = work(of_rows(256, 4096), Shape(4096, 5000))
    assert totals(one) == 2 * (4 * 50 + 8 * (16 + 5 + 8))
    assert totals(work(of_pieces("slices_forward", 0, 9, 1, 9), Shape(9, 9))) == 0


def test_an_estimate():
    """One row for each of two multiprocessors, 8 rounds of the block's 16 KB."""
    launch = of_pieces("rows_backward", 256, 2, 1, 8 * 4096)
    made = estimate([work(launch, Shape(2, 8 * 4096))])
    logits = 8 * 16384
    # The memory is the limit, but for what comes first and last.
    least = 2 * logits / 10
    assert LAUNCH + least / 1e3 < made.microseconds < LAUNCH + (least + START + 3000) / 1e3
    assert (made.blocks, made.waves, made.launches) == (4, 0.25, 1)
    assert made.in_flight == 4 * 16
    moved = 2 * (2 * logits + 20)
    assert made.reached == pytest.approx(moved / (0.02e6 / 0.93) / made.microseconds)
    # 2048 bytes in and out take a scheduler of four 100 cycles; the memory, 10.75 a cycle, 381.
    assert made.issue == pytest.approx(4 * 4096 / 100 / (10 / 0.93))
    alone = moved / 0.02e6 + LAUNCH + made.serial
    assert made.best == pytest.approx(moved / (0.02e6 / 0.93) / alone)
    assert made.reached == pytest.approx(made.best, rel=0.01)  # nothing else takes time


def test_a_larger_estimate_is_proportional():
    def microseconds(rows: int) -> float:
        made = estimate([work(of_rows(256, rows, persistent=True), Shape(rows, 8 * 4096))])
        return made.microseconds - LAUNCH

    assert microseconds(400) == pytest.approx(4 * microseconds(100), rel=0.05)


def test_reading_what_was_launched():
    mangled = "_ZN8fused_ce4cuda12rows_forwardI13__nv_bfloat16LNS0_5TermsE0ELi32EEEvNS0_9Objective"
    expected = Launch("rows_forward<indices, 32>", "BFloat16", 32, 8192, 256, 0, (b"\x07",), True)
    assert parse(f"forward {mangled} 8192 1 256 0 07") == ("forward", expected)
    assert expected.function == "rows_forward"


def test_a_shorter_problem():
    """Its classes stand behind `outer`."""
    launch = Launch("", "float", 0, 1, 32, 0, (struct.pack("<qqq", 5, 1000, 1), b"more"))
    expected = (struct.pack("<qqq", 5, 77, 1), b"more")
    assert shortened(launch, 77).arguments == expected


def test_a_shorter_piece():
    """Of a row that is cut the first one has all classes, however many these are."""
    launch = of_pieces("rows_backward", 256, 1, 2, 1000)
    launch = replace(launch, arguments=(struct.pack("<qqq", 5, 2000, 1), *launch.arguments[1:]))
    for classes in (77, 3000):
        objective, pieces, longest = shortened(launch, classes).arguments
        assert objective == struct.pack("<qqq", 5, classes, 1)
        assert (pieces, longest) == (launch.arguments[1], struct.pack("<q", classes))


@pytest.mark.slow
def test_every_launch_has_a_program():
    shapes = [Shape.named(name) for name in SHAPES]
    for calls in calls_of(build(["float"]), "float", "indices", shapes):
        launches = [launch for call in CALLS for launch in calls[call]]
        assert [launch for launch in launches if launch.function not in PROGRAMS] == []


def test_writing_between_marks():
    text = "a\n<!-- model -->\nold\n<!-- /model -->\nb\n"
    written = tables.between(text, "model", ["| new |", ""])
    assert written == "a\n<!-- model -->\n\n| new |\n\n<!-- /model -->\nb\n"
    assert tables.between(written, "model", ["| new |", ""]) == written
    with pytest.raises(ValueError, match="model"):
        tables.between("a\n", "model", [])
