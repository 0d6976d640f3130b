# SPDX-License-Identifier: BSD-3-Clause
"""What happens where processes do not fit together, come late or end: an error on each, no wait."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fused_ce.distributed
import pytest
import torch
import torch.distributed as dist
from distributed import TIMEOUT, Cases, Rank, run_processes
from fused_ce.distributed import cross_entropy, cross_entropy_stats, linear_cross_entropy_stats
from torch import Tensor

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
CASES = Cases()


def example(rows: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, classes), torch.arange(rows) % classes


def check_it_works(me: Rank) -> None:
    """The group is in no middle of anything."""
    everyones = me.everyones(float(cross_entropy(*example(7, 2), group=me.group)))
    assert len(set(everyones)) == 1


# What the last process does otherwise than the first, and what is said of both.
DISAGREEMENTS: dict[str, tuple[dict[str, Any], dict[str, Any], str, str]] = {
    "rows": ({"rows": 5}, {"rows": 6}, "(5, classes)", "(6, classes)"),
    "dtype": ({"dtype": torch.float32}, {"dtype": torch.float64}, "float32", "float64"),
    "target_dtype": ({"target": torch.int64}, {"target": torch.int32}, "int64", "int32"),
    "target_kind": ({"target": torch.int64}, {"target": torch.float32}, "int64", "float32"),
    "smoothing": ({}, {"label_smoothing": 0.1}, "label_smoothing=0.0", "label_smoothing=0.1"),
    "reduction": ({}, {"reduction": "sum"}, "reduction=mean", "reduction=sum"),
    "ignore_index": ({}, {"ignore_index": 1}, "ignore_index=-100", "ignore_index=1"),
    "logit_scale": ({}, {"logit_scale": 2.0}, "logit_scale=1.0", "logit_scale=2.0"),
    "softcap": ({}, {"softcap": 2.0}, "softcap=None", "softcap=2.0"),
    "temperature": ({}, {"temperature": 2.0}, "temperature=1.0", "temperature=2.0"),
    "z_loss": ({}, {"z_loss_weight": 0.1}, "z_loss_weight=0.0", "z_loss_weight=0.1"),
    "loss_dtype": ({}, {"loss_dtype": torch.float64}, "dtype=None", "dtype=torch.float64"),
    "outputs": ({}, {"return_entropy": True}, "(False, False, False)", "(False, True, False)"),
    "weight": ({}, {"weight": True}, "weight=None", "weight=given"),
    "overlap": ({"first": 1}, {"first": 1}, "3 classes from", "3 classes from"),
    "gap": ({"first": 3}, {"first": 4}, "3 classes from", "3 classes from"),
    "some_say_where": ({"first": None}, {"first": 3}, "from None on", "from 3 on"),
    "begins_late": ({"first": 4}, {"first": 4}, "3 classes from", "3 classes from"),
}


@CASES.add(what=DISAGREEMENTS)
def disagreement(me: Rank, what: str) -> None:
    # A call that was agreed on before is not asked about again.
    me = me._replace(group=dist.new_group(timeout=TIMEOUT))
    last = me.rank == me.size - 1
    *given, of_first, of_last = DISAGREEMENTS[what]
    options = dict(given[last])
    x, target = example(options.pop("rows", 5))
    x = x.to(options.pop("dtype", torch.float32))
    kind = options.pop("target", torch.int64)
    target = x.softmax(1) if kind.is_floating_point else target.to(kind)
    if options.pop("weight", False):
        options["weight"] = torch.ones(3)
    if "loss_dtype" in options:
        options["dtype"] = options.pop("loss_dtype")
    first = options.pop("first", "unsaid")
    if first != "unsaid":
        start = 3 * me.rank if what in ("overlap", "gap") else None
        if what == "begins_late":
            start = 3 * me.rank + 1
        options["first_class"] = start
        if last:
            options["first_class"] = {"overlap": 3 * me.rank - 1, "gap": 3 * me.rank + 1}.get(
                what, start if start is not None else first
            )
    for _ in range(2):  # errors are not remembered as agreement
        with pytest.raises(ValueError, match="the processes of the group have") as caught:
            cross_entropy_stats(x, target, group=me.group, **options)
        lines = str(caught.value).splitlines()[1:]
        assert [line.split(":")[0] for line in lines] == [f"  rank {r}" for r in range(me.size)]
        assert of_first in lines[0] and of_last in lines[-1], lines
    check_it_works(me)


@CASES.add()
def disagreement_of_layers(me: Rank) -> None:
    me = me._replace(group=dist.new_group(timeout=TIMEOUT))
    last = me.rank == me.size - 1
    target = torch.arange(5) % 3
    given: tuple[tuple[int, int, bool], ...] = ((5, 4, False), (6, 4, False), (5, 3, False))
    for rows, features, bias in (*given[1:], (5, 4, True)):
        n, k, b = (rows, features, bias) if last else given[0]
        x, w = torch.randn(n, k), torch.randn(3, k)
        with pytest.raises(ValueError, match=r"(?s)rank 0: .*rank 1: "):
            linear_cross_entropy_stats(
                x, w, target.repeat(2)[:n], linear_bias=torch.ones(3) if b else None, group=me.group
            )
    check_it_works(me)


def refused_by_all(me: Rank, error: type[Exception], match: str, f: Callable[[], object]) -> None:
    with pytest.raises(error, match=match):
        f()
    check_it_works(me)


@CASES.add(index=[-1, 9, 1000], of=["logits", "layer"], kind=["slices", "an_empty_slice"])
def class_out_of_range(me: Rank, index: int, of: str, kind: str) -> None:
    """By all, also by those with no such class and with none at all, before they wait."""
    counts = [9 - 2 * (me.size - 1)] + [2] * (me.size - 1)
    if kind == "an_empty_slice":
        counts = [0, 9] + [0] * (me.size - 2)
    target = torch.tensor([3, 0, index, -100])
    own = counts[me.rank]

    def f() -> object:
        if of == "logits":
            return cross_entropy(torch.randn(4, own), target, group=me.group)
        return linear_cross_entropy_stats(
            torch.randn(4, 3), torch.randn(own, 3), target, chunk_rows=2, group=me.group
        )

    refused_by_all(me, IndexError, f"{index} is", f)


X, T = torch.zeros(9, 3), torch.arange(9) % 3
REFUSALS: dict[str, tuple[type[Exception], str, tuple[Any, ...], dict[str, Any]]] = {
    "weight_requires_grad": (
        NotImplementedError,
        "weight requires grad",
        (X, T, torch.ones(3).requires_grad_()),
        {},
    ),
    "target_requires_grad": (
        NotImplementedError,
        "target requires grad",
        (X, torch.ones(9, 3).requires_grad_()),
        {},
    ),
    "row_weight_shape": (RuntimeError, "row_weight", (X, T), {"row_weight": torch.ones(3)}),
    "row_weight_type": (RuntimeError, "row_weight", (X, T), {"row_weight": T}),
    "weight_shape": (RuntimeError, "weight", (X, T, torch.ones(4)), {}),
    "weight_type": (RuntimeError, "", (X, T, torch.ones(3).double()), {}),
    "target_shape": (ValueError, "", (X, T[:3]), {}),
    "reduction": (ValueError, "not a valid value for reduction", (X, T), {"reduction": "most"}),
    "smoothing": (RuntimeError, "label_smoothing", (X, T), {"label_smoothing": 1.5}),
    "softcap": (RuntimeError, "softcap", (X, T), {"softcap": -1.0}),
    "temperature": (RuntimeError, "temperature", (X, T), {"temperature": 0.0}),
    "normalizer": (RuntimeError, "normalizer", (X, T), {"normalizer": 2.0, "reduction": "sum"}),
    "integers": (NotImplementedError, "", (X.long(), T), {}),
}


@CASES.add(what=REFUSALS)
def refusal(me: Rank, what: str) -> None:
    """Of the type that one process raises, where it refuses as well."""
    error, match, given, options = REFUSALS[what]
    if "requires_grad" not in what:
        with pytest.raises(error, match=match):
            fused_ce.cross_entropy_stats(*given, **options)
    refused_by_all(me, error, match, lambda: cross_entropy_stats(*given, group=me.group, **options))


@CASES.add()
def not_in_the_group(me: Rank) -> None:
    group = dist.new_group([0])
    if me.rank == 0:
        alone = cross_entropy(*example(), group=group)
        assert alone.isfinite()
    else:
        with pytest.raises(ValueError, match="group: this process is not in it"):
            cross_entropy(*example(), group=group)
    check_it_works(me)


@CASES.add()
def a_group_of_one(me: Rank) -> None:
    """The loss of one process, in which nothing is exchanged."""
    groups = [dist.new_group([rank]) for rank in range(me.size)]
    x, target = example()
    x = x.double().requires_grad_()
    for reduction in ("none", "mean"):
        ours = cross_entropy(x, target, reduction=reduction, group=groups[me.rank])
        theirs = fused_ce.cross_entropy(x, target, reduction=reduction)
        torch.testing.assert_close(ours, theirs)
        torch.testing.assert_close(*(torch.autograd.grad(loss.sum(), x) for loss in (ours, theirs)))


@CASES.add()
def groups_that_go_and_come(me: Rank) -> None:
    """What was agreed on belongs to a group, not to its name or its place in memory."""
    for counts in ((2, 3, 1, 4), (4, 1, 3, 2)):
        for _ in range(2):
            group = dist.new_group(timeout=TIMEOUT)
            of_group = Rank(me.rank, me.size, group)
            x = torch.randn(6, sum(counts[: me.size]), dtype=torch.float64)
            target = torch.tensor([0, 1, 2, 3, 4, 4])
            ours = of_group.stats(counts[: me.size], x, target).loss
            torch.testing.assert_close(ours, fused_ce.cross_entropy(x, target))
            dist.barrier(group)
            dist.destroy_process_group(group)


@CASES.add()
def a_late_process(me: Rank) -> None:
    """Waited for, forward and, of a layer, backward."""
    x = torch.randn(9, 2, requires_grad=True)
    w = torch.randn(3, 2)
    last = me.rank == me.size - 1
    time.sleep(2 * last)
    loss = linear_cross_entropy_stats(x, w, T, group=me.group).loss
    time.sleep(last)
    loss.backward()
    (gradient,) = {tuple(g.view(-1).tolist()) for g in me.everyones(x.grad)}
    assert any(gradient)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [2, 4])
def test_faults(request: pytest.FixtureRequest, size: int, case: str) -> None:
    CASES.check(request, size, case)


def test_no_process_group() -> None:
    for f in (
        functools.partial(cross_entropy, X, T),
        functools.partial(linear_cross_entropy_stats, X, torch.ones(2, 3), T),
    ):
        with pytest.raises(RuntimeError, match="init_process_group first"):
            f()


SCRIPT = """
import os, sys, time, torch, torch.distributed as dist
from datetime import timedelta
from fused_ce.distributed import cross_entropy, linear_cross_entropy
what, store, rank, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
def begin(n):
    dist.init_process_group("gloo", init_method=f"file://{store}{n}", rank=rank, world_size=size,
                            timeout=timedelta(seconds=10))
def loss():
    return cross_entropy(torch.randn(5, 3), torch.arange(5) % 3)
def layer(x):
    return linear_cross_entropy(x, torch.ones(3, 2), torch.arange(5) % 3)
begin(0)
loss()
if what == "again":
    # Another world, of the same name: other slices have to be agreed on.
    dist.barrier()
    dist.destroy_process_group()
    begin(1)
    torch.manual_seed(0)
    x = torch.randn(5, 7)
    own = x[:, :3] if rank == 0 else x[:, 3:]
    t = torch.tensor([0, 6, 3, 2, 5])
    torch.testing.assert_close(cross_entropy(own, t), torch.nn.functional.cross_entropy(x, t))
    dist.barrier()
    os._exit(0)
x = torch.randn(5, 2, requires_grad=True)
before = layer(x)
last = rank == size - 1
if what == "heads":
    # Vocabularies of 6 and 4: the first process has 3 classes of both.
    for counts in ((3, 3), (3, 1), (3, 3)):
        torch.manual_seed(0)
        x = torch.randn(8, sum(counts))
        t = torch.arange(8) % sum(counts)
        own = x.split(counts, 1)[rank].contiguous()
        for smoothing in (0.0, 0.1):
            torch.testing.assert_close(
                cross_entropy(own, t, label_smoothing=smoothing, classes=sum(counts)),
                torch.nn.functional.cross_entropy(x, t, label_smoothing=smoothing),
            )
    dist.barrier()
    os._exit(0)
if what == "changed":
    rows = 6 if last else 5
    print("got", cross_entropy(torch.randn(rows, 3), torch.arange(rows) % 3))
    sys.stdout.flush()
    os._exit(0)
if last and what != "silent":
    os._exit(7)
if last:
    time.sleep(15)
    os._exit(7)
begun = time.monotonic()
try:
    if what == "backward":
        before.backward()
    elif what == "new_sizes":
        cross_entropy(torch.randn(6, 3), torch.arange(6) % 3)
    else:
        loss()
except RuntimeError as error:  # torch.distributed.DistBackendError is one
    assert time.monotonic() - begun < 20, "waited longer than the timeout"
    print("refused:", error)
    sys.stdout.flush()
    os._exit(3)
os._exit(0)
"""


@pytest.mark.parametrize(
    ("what", "size"),
    [("forward", 2), ("forward", 4), ("backward", 2), ("new_sizes", 2), ("silent", 2)],
)
def test_a_process_that_ends(what: str, size: int, tmp_path: Path) -> None:
    """The others' collectives fail as torch's do, at once or after the group's timeout."""
    *others, last = run_processes(size, "-c", SCRIPT, what, str(tmp_path / "s"), timeout=80)
    assert "ended with 7" in last
    for output in others:
        assert "ended with 3" in output and "refused:" in output, output


def test_some_changed_their_call(tmp_path: Path) -> None:
    """One process comes with new sizes while another goes on as agreed. That may end both, in gloo
    by an exception that nobody can catch, but none may wait, or get a number: what the other sent
    is less than what is read.
    """
    for output in run_processes(2, "-c", SCRIPT, "changed", str(tmp_path / "s"), timeout=80):
        assert "got" not in output and "ended with -9" not in output, output


def test_heads_that_one_process_takes_for_another(tmp_path: Path) -> None:
    """Two heads of one model, that are alike on a process but not on all: with `classes`, a process
    knows them apart.
    """
    for output in run_processes(2, "-c", SCRIPT, "heads", str(tmp_path / "s"), timeout=80):
        assert "ended with 0" in output, output


def test_a_world_that_ends_and_begins(tmp_path: Path) -> None:
    for output in run_processes(2, "-c", SCRIPT, "again", str(tmp_path / "s"), timeout=80):
        assert "ended with 0" in output, output
