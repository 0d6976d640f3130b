# SPDX-License-Identifier: BSD-3-Clause
"""What tests of losses with shared-out classes have in common: processes, and slices of tensors.

Starting a process costs more than hundreds of losses. So the processes of a group are started once
for a file of tests, run all of its cases that pytest has selected, and leave a verdict on each.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
from fused_ce import CrossEntropyStats
from torch import Tensor

# After a failure on one process the others wait for it this long: far more than a collective takes.
TIMEOUT = timedelta(seconds=30)
PASSED = "passed"
Counts = tuple[int, ...]


class Rank(NamedTuple):
    """One process, and its group."""

    rank: int
    size: int
    group: dist.ProcessGroup

    def everyones(self, thing: object) -> list[Any]:
        things: list[Any] = [None] * self.size
        dist.all_gather_object(things, thing, group=self.group)
        return things

    def mine(self, whole: Tensor, dim: int, counts: Counts) -> Tensor:
        """The slice of this process's classes, in the memory of the whole.

        The gradients of all processes' slices come together in the whole one's, which thus can be
        compared with that of one process; so can second derivatives.
        """
        start = sum(counts[: self.rank])
        return _apply(_Slice, whole, dim, start, counts[self.rank], self.group)

    def stats(
        self,
        counts: Counts,
        x: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        **options: Any,
    ) -> CrossEntropyStats:
        """fused_ce.cross_entropy_stats of the same whole tensors, by all processes."""
        from fused_ce.distributed import cross_entropy_stats

        dim = min(1, x.dim() - 1)
        return cross_entropy_stats(
            self.mine(x, dim, counts),
            self.mine(target, dim, counts) if target.is_floating_point() else target,
            None if weight is None else self.mine(weight, 0, counts),
            group=self.group,
            **options,
        )

    def linear_stats(
        self,
        counts: Counts,
        x: Tensor,
        linear_weight: Tensor,
        target: Tensor,
        *,
        linear_bias: Tensor | None = None,
        weight: Tensor | None = None,
        **options: Any,
    ) -> CrossEntropyStats:
        """fused_ce.linear_cross_entropy_stats of the same whole tensors, by all processes."""
        from fused_ce.distributed import linear_cross_entropy_stats

        return linear_cross_entropy_stats(
            x,
            self.mine(linear_weight, 0, counts),
            self.mine(target, target.dim() - 1, counts) if target.is_floating_point() else target,
            linear_bias=None if linear_bias is None else self.mine(linear_bias, 0, counts),
            weight=None if weight is None else self.mine(weight, 0, counts),
            group=self.group,
            **options,
        )


def _apply(function: Any, *arguments: object) -> Tensor:
    result: Tensor = function.apply(*arguments)
    return result


class _Slice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, whole: Tensor, dim: int, start: int, count: int, group: dist.ProcessGroup
    ) -> Tensor:
        ctx.place = dim, start, whole.size(dim), group
        return whole.narrow(dim, start, count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _apply(_Join, grad, *ctx.place), None, None, None, None


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, part: Tensor, dim: int, start: int, size: int, group: dist.ProcessGroup
    ) -> Tensor:
        ctx.place = dim, start, part.size(dim), group
        # In float64, as gloo does not add every type.
        whole = torch.zeros([*part.shape[:dim], size, *part.shape[dim + 1 :]], dtype=torch.float64)
        whole.narrow(dim, start, part.size(dim)).copy_(part)
        dist.all_reduce(whole, group=group)
        return whole.to(part.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        return _apply(_Slice, grad, *ctx.place), None, None, None, None


Case = Callable[[Rank], None]


class Cases(dict[str, Case]):
    """The cases of a file, by name."""

    def add(self, **parameters: Iterable[object]) -> Callable[[Callable[..., None]], Any]:
        """Add a function of a Rank, once for each combination of the parameters."""

        def register(f: Callable[..., None]) -> Callable[..., None]:
            for values in itertools.product(*parameters.values()):
                name = "-".join([f.__name__, *(str(v).removeprefix("torch.") for v in values)])
                assert name not in self
                self[name] = functools.partial(f, **dict(zip(parameters, values, strict=True)))
            return f

        return register

    def check(self, request: pytest.FixtureRequest, size: int, case: str) -> None:
        """Fail as the case does in a group of this size, whose cases run when one is asked for."""
        module = request.module.__name__
        selected = [
            item.callspec.params["case"]
            for item in request.session.items
            if isinstance(item, pytest.Function)
            and item.module.__name__ == module
            and item.originalname == request.function.__name__
            and item.callspec.params["size"] == size
        ]
        verdict = _verdicts(module, size, tuple(selected)).get(case, "the processes did not get to")
        assert verdict == PASSED, verdict


@functools.cache
def _verdicts(module: str, size: int, cases: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    while waiting := [case for case in cases if case not in found]:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "cases").write_text(json.dumps([module, waiting]))
            outputs = run_processes(size, __file__, folder, together=True)
            verdicts = Path(folder) / "verdicts"
            found |= json.loads(verdicts.read_text()) if verdicts.exists() else {}
        # The case in which a process ended, if one did: the others begin anew.
        for case in waiting:
            if case not in found:
                found[case] = "\n".join(outputs)
                break
    return found


def run_processes(
    size: int, *arguments: str, timeout: float = 600, together: bool = False
) -> list[str]:
    """The output of each of the processes, which get their rank and their number, too.

    Together: one that fails ends the others as well.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / str(rank) for rank in range(size)]
        processes = []
        for rank, file in enumerate(files):
            with file.open("w") as output:
                command = [sys.executable, *arguments, str(rank), str(size)]
                processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
        end = time.monotonic() + timeout
        while time.monotonic() < end and any(p.poll() is None for p in processes):
            time.sleep(0.05)
            if together and any(p.poll() for p in processes):
                end = min(end, time.monotonic() + 5)  # in which others say what they met
        for process in processes:
            process.kill()
        return [
            f"rank {rank} ended with {process.wait()}: {file.read_text()[-10_000:]}"
            for rank, (process, file) in enumerate(zip(processes, files, strict=True))
        ]


def _run(folder: Path, rank: int, size: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size, timeout=TIMEOUT
    )
    module, names = json.loads((folder / "cases").read_text())
    cases: Cases = importlib.import_module(module).CASES
    group = dist.new_group(timeout=TIMEOUT)
    # In which those that failed wait for those that wait for them in the other.
    of_verdicts = Rank(rank, size, dist.new_group(timeout=4 * TIMEOUT))
    verdicts = {}
    for name in names:
        torch.manual_seed(0)
        # One that waits for something else than another process says where, before they give up.
        faulthandler.dump_traceback_later(3 * TIMEOUT.total_seconds())
        verdict = PASSED
        try:
            cases[name](Rank(rank, size, group))
        except Exception:
            verdict = traceback.format_exc()
        everyones = of_verdicts.everyones(verdict)
        wrong = [f"rank {r}: {v}" for r, v in enumerate(everyones) if v != PASSED]
        if wrong:  # perhaps in the middle of a collective that the others are not in
            group = dist.new_group(timeout=TIMEOUT)
        verdicts[name] = "\n".join(wrong) or PASSED
        if rank == 0:
            (folder / "verdicts").write_text(json.dumps(verdicts))
    # See test_linear_processes.py on ends of processes.
    dist.barrier()
    os._exit(0)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
