# SPDX-License-Identifier: BSD-3-Clause
"""Losses whose classes are shared out to processes: time, traffic and memory.

fused_ce.distributed beside torch's loss_parallel, the three collectives of Megatron, and a gather
of the logits. The processes are all on this machine, over gloo, with one thread each: of four on
two cores each has half of one. A call's time is that of the slowest process. Calls are interleaved,
as bench.py does it.

    python benchmarks/distributed.py            # measures, and draws
    python benchmarks/distributed.py --model    # what it costs on networks, on paper
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import fused_ce
import fused_ce.distributed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from cases import DTYPES
from devices import Cpu
from timing import Record, clocks, machine_of, summary
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

SHAPES = ["64x1000", "1024x32000", "4096x32000", "512x128256"]
QUICK = ["64x1000", "1024x32000"]
MANY_ROWS = "131072x64"  # which more than two processes exchange in two reductions
ONE = "one process"
SHORTEST_SAMPLE = 5e-3  # seconds; of less the processes' unequal starts are a part
LONG = 0.5  # seconds of a call
SMALLEST_PEAK = 1 << 22  # logits, as linear.py has it


class Spec(NamedTuple):
    shape: str
    dtype: str

    def sizes(self) -> tuple[int, int]:
        rows, classes = map(int, self.shape.split("x"))
        return rows, classes


class Case:
    """Tensors of a process: its logits, of as many classes as the others', and the targets."""

    def __init__(self, spec: Spec, rows: int | None = None, whole: bool = False) -> None:
        wanted, self.classes = spec.sizes()
        self.rows = rows or wanted
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.dtype = DTYPES[spec.dtype]
        assert self.classes % self.size == 0
        self.own = self._slice(self.rank).requires_grad_()
        chance = torch.Generator().manual_seed(1000)
        self.target = torch.randint(self.classes, (self.rows,), generator=chance)
        self.whole: Tensor | None = None
        if whole:
            slices = [self._slice(rank) for rank in range(self.size)]
            self.whole = torch.cat(slices, 1).requires_grad_()

    @property
    def first_class(self) -> int:
        return self.classes // self.size * self.rank

    def clear(self) -> None:
        self.own.grad = None
        if self.whole is not None:
            self.whole.grad = None

    def _slice(self, rank: int) -> Tensor:
        chance = torch.Generator().manual_seed(rank)
        return torch.randn(self.rows, self.classes // self.size, generator=chance).to(self.dtype)


Step = Callable[[Case], Tensor]  # forward and backward; the loss


def backward(loss: Tensor) -> Tensor:
    torch.autograd.backward(loss)
    return loss.detach()


def ours(case: Case) -> Tensor:
    return backward(fused_ce.distributed.cross_entropy(case.own, case.target))


def with_statistics(case: Case) -> Tensor:
    """Entropy and prediction are given, and the loss alone goes backward."""
    return backward(
        fused_ce.distributed.cross_entropy_stats(
            case.own, case.target, return_entropy=True, return_prediction=True
        ).loss
    )


def torchs(case: Case) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor.parallel import loss_parallel

    logits = DTensor.from_local(case.own, _mesh(), [Shard(-1)], run_check=False)
    with loss_parallel():
        loss = F.cross_entropy(logits, case.target)
        torch.autograd.backward(loss)
    assert isinstance(loss, DTensor)
    return loss.to_local().detach()


_meshes: list[Any] = []


def _mesh() -> Any:
    """Of all processes; made once."""
    if not _meshes:
        _meshes.append(dist.device_mesh.init_device_mesh("cpu", (dist.get_world_size(),)))
    return _meshes[0]


class ThreeCollectives(torch.autograd.Function):
    """The losses of rows as Megatron-LM has them, but that the logits are left as they are."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, first: int) -> Tensor:
        largest = logits.amax(1).float()
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        shifted = logits - largest.unsqueeze(1)  # float32
        elsewhere = (target < first) | (target >= first + logits.shape[1])
        own = (target - first).masked_fill(elsewhere, 0)
        at_target = shifted.gather(1, own.unsqueeze(1)).squeeze(1).masked_fill(elsewhere, 0)
        dist.all_reduce(at_target)
        exponentials = shifted.exp_()
        total = exponentials.sum(1)
        dist.all_reduce(total)
        ctx.dtype = logits.dtype
        ctx.save_for_backward(exponentials.div_(total.unsqueeze(1)), elsewhere, own)
        return total.log() - at_target

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        softmax, elsewhere, own = ctx.saved_tensors
        softmax[torch.arange(len(own)), own] -= (~elsewhere).float()
        return softmax.mul_(gradient.unsqueeze(1)).to(ctx.dtype), None, None


def three_collectives(case: Case) -> Tensor:
    apply: Any = ThreeCollectives.apply  # without types there
    return backward(apply(case.own, case.target, case.first_class).mean())


class Gather(torch.autograd.Function):
    """All logits, of which every process computes with all: its gradient is a slice of theirs."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, own)
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.chunk(dist.get_world_size(), 1)[dist.get_rank()].contiguous()


def gathered(case: Case) -> Tensor:
    apply: Any = Gather.apply
    return backward(F.cross_entropy(apply(case.own), case.target))


def of_one(case: Case) -> Tensor:
    """All classes on the first process, while the others wait."""
    if case.whole is None:
        return torch.zeros(())
    return backward(fused_ce.cross_entropy(case.whole, case.target))


STEPS: dict[str, Step] = {
    "fused_ce": ours,
    "with statistics": with_statistics,
    "loss_parallel": torchs,
    "three collectives": three_collectives,
    "gathered logits": gathered,
    ONE: of_one,
}
TOGETHER = [name for name in STEPS if name != ONE]


def check(spec: Spec) -> None:
    """Whether all say the same, of few rows. It warms them up, too."""
    case = Case(spec, rows=max(spec.sizes()[0] // 8, 1), whole=True)
    assert case.whole is not None
    whole = case.whole.detach().double().requires_grad_()
    want = float(backward(F.cross_entropy(whole, case.target)))
    assert whole.grad is not None
    part = whole.grad.chunk(case.size, 1)[case.rank]
    single = spec.dtype == "float32"
    for name in TOGETHER:
        case.clear()
        result = float(STEPS[name](case))
        # torch's losses of bfloat16 logits are bfloat16.
        assert math.isclose(result, want, rel_tol=1e-5 if single else 1e-2), (name, result, want)
        gradient = case.own.grad
        assert gradient is not None
        off = float((gradient.double() - part).norm() / part.norm())
        assert off < (1e-5 if single else 2e-2), f"{name}: the gradient is off by {off:.1e}"
        if name in ("fused_ce", "with statistics"):
            losses = [torch.zeros((), dtype=torch.double) for _ in range(case.size)]
            dist.all_gather(losses, torch.tensor(result, dtype=torch.double))
            assert all(torch.equal(loss, losses[0]) for loss in losses), losses


def largest_of_all(values: list[float]) -> list[float]:
    on_all = torch.tensor(values, dtype=torch.double)
    dist.all_reduce(on_all, dist.ReduceOp.MAX)
    return on_all.tolist()


def sum_of_all(value: float) -> float:
    on_all = torch.tensor(value, dtype=torch.double)
    dist.all_reduce(on_all)
    return float(on_all)


def times_of(case: Case, seconds: float, fewest: int) -> Record:
    device, names = Cpu(), list(STEPS)

    def call(name: str) -> None:
        case.clear()
        STEPS[name](case)

    def sample(name: str, batch: int) -> float:
        dist.barrier()
        return device.sample(partial(call, name), batch)

    once = largest_of_all([sample(name, 1) for name in names])
    if sum(once) < seconds / 10:  # the first of all may have taken longer
        once = largest_of_all([sample(name, 1) for name in names])
    if sum(once) > seconds / 3:
        fewest = min(fewest, 3)
    batch = max(1, math.ceil(SHORTEST_SAMPLE / min(once)))
    rounds = min(max(fewest, int(seconds / (batch * sum(once)))), 100)
    times: dict[str, list[float]] = {name: [] for name in names}
    # Untimed before its sample: a loop of training, too, finds the memory that a step before left.
    # Where calls take longer nothing is kept, and a second one would tell the same.
    twice = {name for name, t in zip(names, once, strict=True) if t < LONG}
    chance = random.Random(0)
    before = clocks()
    for _ in range(rounds):
        chance.shuffle(names)  # alike on all
        for name in names:
            if name in twice:
                call(name)
            times[name].append(sample(name, batch))
    dist.barrier()
    busy, own, wall = (b - a for a, b in zip(before, clocks(), strict=True))
    others = max(0.0, busy - sum_of_all(own)) / (wall * (os.cpu_count() or 1))
    slowest = {name: summary(largest_of_all(t)) for name, t in times.items()}
    return {"batch": batch, "other load": others, "forward+backward": slowest}


class Handed(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts collectives, and the bytes that this process gives to them."""

    INPUT = {  # noqa: RUF012
        "_c10d_functional.all_reduce": 0,
        "_c10d_functional.all_gather_into_tensor": 0,
        "c10d.allreduce_": 0,
        "c10d.allgather_": 1,
    }

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.collectives, self.bytes = 0, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        from torch.distributed.tensor import DTensor

        if any(issubclass(t, DTensor) for t in types):
            return NotImplemented  # it calls again, with what is its own
        name = str(func.overloadpacket)
        if name in self.INPUT:
            given = args[self.INPUT[name]]
            tensors = [given] if isinstance(given, Tensor) else given
            self.collectives += 1
            self.bytes += sum(tensor.nbytes for tensor in tensors)
        else:
            known = ("wait_tensor", "_wrap_tensor_autograd")
            collective = "c10d" in func.namespace and not name.endswith(known)
            assert not collective, f"what {name} is given is not counted"
        return func(*args, **(kwargs or {}))


def received() -> int:
    """Bytes that have come in over the sockets of this process, as Linux counts them."""
    total = 0
    for entry in os.listdir("/proc/self/fd"):
        try:
            if not os.readlink(f"/proc/self/fd/{entry}").startswith("socket:"):
                continue
            with socket.socket(fileno=os.dup(int(entry))) as copy:
                information = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
        except OSError:
            continue  # of another kind, or closed meanwhile
        total += struct.unpack_from("Q", information, 128)[0]  # tcpi_bytes_received
    return total


def traffic(case: Case) -> Record:
    """Of each way: collectives, and bytes a row that each process hands to them, and receives."""
    found = {}
    repeats = 1 if case.rows * case.classes >= SMALLEST_PEAK else 10
    for name in TOGETHER:
        dist.barrier()
        before = received()
        with Handed() as handed:
            for _ in range(repeats):
                case.clear()
                STEPS[name](case)
        came = received() - before
        dist.barrier()
        found[name] = {
            "collectives": handed.collectives // repeats,
            "handed": handed.bytes / repeats / case.rows,
            "received": sum_of_all(came) / case.size / repeats / case.rows,
        }
    return found


def measure(spec: Spec, seconds: float, fewest: int) -> Record:
    check(spec)
    case = Case(spec, whole=dist.get_rank() == 0)
    return {**times_of(case, seconds, fewest), "traffic": traffic(case)}


def peaks(spec: Spec) -> Record:
    """Bytes at the peak of a call, beyond the logits and their gradient, of the worst process."""
    found = {}
    small = Case(Spec("64x128", spec.dtype), whole=dist.get_rank() == 0)
    case = Case(spec, whole=dist.get_rank() == 0)
    for name, step in STEPS.items():
        small.clear()
        step(small)  # libraries and threads come first
        case.clear()
        dist.barrier()
        growth = Cpu().peak_growth(partial(step, case))
        has = case.own if name != ONE else case.whole
        gradient = has.nbytes if has is not None else 0
        found[name] = int(largest_of_all([max(0, growth - gradient)])[0])
        dist.barrier()
    return {"peak bytes": found}


def run(rank: int, size: int, folder: Path) -> None:
    """What a process of the group does."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/group",
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=120),
    )
    job = json.loads((folder / "job").read_text())
    found = []
    for shape, dtype in (progress := tqdm(job["cases"], disable=rank > 0)):
        spec = Spec(shape, dtype)
        progress.set_description(f"{size} processes, {job['what']}: {shape} {dtype}")
        if job["what"] == "memory":
            record = peaks(spec)
        else:
            record = measure(spec, job["seconds"], job["fewest"])
        found.append({**spec._asdict(), "processes": size, "threads": 1, **record})
    if rank == 0:
        (folder / "found").write_text(json.dumps(found))
    # As it ends, the interpreter may be aborted by gloo's threads.
    dist.barrier()
    os._exit(0)


def together(size: int, job: Record, environment: dict[str, str]) -> list[Record]:
    """What processes of a group of their own find."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job").write_text(json.dumps(job))
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, "--as", str(rank), str(size), name],
                env=os.environ | environment,
            )
            for rank in range(size)
        ]
        try:
            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):
                    break
                time.sleep(0.1)
        finally:
            for process in processes:
                process.kill()
        if not (folder / "found").exists():
            raise SystemExit(f"{size} processes: failed")
        found: list[Record] = json.loads((folder / "found").read_text())
        return found


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two shapes on two processes")
    parser.add_argument("--shapes", nargs="+", help="rows x classes: 1024x32000")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES)
    parser.add_argument("--processes", nargs="+", type=int, help="2 4; --quick: 2")
    parser.add_argument("--seconds", type=float, help="for each case: 5; --quick: 2")
    parser.add_argument("--model", action="store_true", help="print the model's tables alone")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/distributed.json"))
    parser.add_argument("--as", nargs=3, dest="process", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.process:
        rank, size, folder = arguments.process
        run(int(rank), int(size), Path(folder))
    if arguments.model:
        from distributed_model import show

        show()
        return
    from distributed_report import report  # matplotlib, which the processes can do without

    quick = arguments.quick
    shapes = arguments.shapes or (QUICK if quick else SHAPES)
    specs = [
        Spec(*case)
        for case in product(shapes, arguments.dtypes or ["float32", "bfloat16"][: 2 - quick])
    ]
    job = {"seconds": arguments.seconds or (2.0 if quick else 5.0), "fewest": 3 if quick else 5}
    records: list[Record] = []
    for size in arguments.processes or ([2] if quick else [2, 4]):
        more = [] if arguments.shapes or quick or size <= 2 else [Spec(MANY_ROWS, "float32")]
        found = together(size, {**job, "what": "time", "cases": [*specs, *more]}, {})
        large = [spec for spec in specs if math.prod(spec.sizes()) >= SMALLEST_PEAK]
        # Every tensor is mapped afresh: else the memory of an earlier one would hide it.
        alone = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
        memory = together(size, {"what": "memory", "cases": large}, alone) if large else []
        for record, peak in product(found, memory):
            if all(record[key] == peak[key] for key in ("shape", "dtype")):
                record["peak bytes"] = peak["peak bytes"]
        records += found
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        result = {"machine": machine_of(Cpu()), "records": records}
        arguments.out.write_text(json.dumps(result, indent=1))
    report(arguments.out)


if __name__ == "__main__":
    main()
