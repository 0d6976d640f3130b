# SPDX-License-Identifier: BSD-3-Clause
"""The linear layer's loss in models that several processes train together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

# Two processes, each with a half of the batch: gradients are those of the mean of the two losses.
PARALLEL = """
import os, sys, torch, fused_ce, torch.distributed as dist, torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

class Model(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.kind = kind
        if kind == "module":
            self.loss = fused_ce.LinearCrossEntropyLoss(4, 6, bias=True, chunk_rows=2)
        else:
            self.head = nn.Linear(4, 6)

    def forward(self, x, t):
        h = self.body(x).tanh()
        if self.kind == "module":
            return self.loss(h, t)
        w, b = self.head.weight, self.head.bias
        if self.kind == "plain":
            return F.cross_entropy(F.linear(h, w, b), t)
        return fused_ce.linear_cross_entropy(h, w, t, linear_bias=b, chunk_rows=2)

def model(kind):
    torch.manual_seed(0)
    m = Model(kind).double()
    with torch.no_grad():
        for p in m.parameters():
            p.copy_(torch.randn(p.shape, dtype=torch.float64))
    return m

def run(rank, file):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method="file://" + file, rank=rank, world_size=2)
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    x, t = torch.randn(10, 4, dtype=torch.float64), torch.randint(6, (10,))
    dist.broadcast(x, 0), dist.broadcast(t, 0)
    plain = model("plain")
    for half in (slice(0, 5), slice(5, 10)):
        (plain(x[half], t[half]) / 2).backward()
    mine = slice(0, 5) if rank == 0 else slice(5, 10)
    for kind in ("module", "function"):
        for how in ("ddp", "ddp_static", "fsdp", "fsdp_no_reshard"):
            m = model(kind)
            if how.startswith("ddp"):
                m = DistributedDataParallel(m, static_graph=how == "ddp_static")
            else:
                fully_shard(m.body, mesh=mesh)
                if kind == "module":
                    fully_shard(m.loss, mesh=mesh)
                fully_shard(m, mesh=mesh, reshard_after_forward=how == "fsdp")
            for _ in range(2):
                m.zero_grad()
                m(x[mine], t[mine]).backward()
            for p, q in zip(m.parameters(), plain.parameters(), strict=True):
                grad = p.grad if how.startswith("ddp") else p.grad.full_tensor()
                torch.testing.assert_close(grad, q.grad, msg=lambda s: f"{kind} {how}: {s}")
    # As it ends, the interpreter may be aborted by gloo's threads ("terminate called without an
    # active exception"), without this library, too.
    dist.barrier()
    os._exit(0)

if __name__ == "__main__":
    run(int(sys.argv[1]), sys.argv[2])
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_parallel(tmp_path: Path) -> None:
    script = tmp_path / "parallel.py"
    script.write_text(PARALLEL)
    command = [sys.executable, str(script)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=120)
            assert process.returncode == 0, output[-3000:]
    finally:
        for process in processes:
            process.kill()
