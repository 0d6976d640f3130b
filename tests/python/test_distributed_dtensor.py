# SPDX-License-Identifier: BSD-3-Clause
"""Losses of DTensors, in models that are parallel over a mesh, and under torch.compile."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from distributed import Cases, Rank
from torch import Tensor, nn

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="no torch.distributed")
CASES = Cases()

# Placements of logits on the dimensions of a mesh: "c" shares out the classes, "r" the rows.
PLACES = {1: ["*", "r", "c"], 2: [a + b for a, b in itertools.product("*rc", repeat=2)]}
SHAPES = [(7, 10), (3, 11, 5)]  # shared out unevenly
close = torch.testing.assert_close


def mesh_of(me: Rank, dims: int) -> Any:
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh("cpu", (me.size,) if dims == 1 else (2, me.size // 2))


def placements(places: str, class_dim: int = 1) -> list[Any]:
    from torch.distributed.tensor import Replicate, Shard

    return [{"*": Replicate(), "r": Shard(0), "c": Shard(class_dim)}[p] for p in places]


def problem(shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Of ignored rows each part of the batch has another number, the first one none but those."""
    x = torch.randn(shape, dtype=torch.float64)
    target = torch.randint(shape[1], (shape[0], *shape[2:]))
    target.view(-1)[:4] = -100
    return x, target, torch.rand(shape[1], dtype=torch.float64)


def whole(result: Tensor) -> Tensor:
    full: Tensor = result.full_tensor()  # type: ignore[attr-defined]
    return full


@CASES.add(
    places=PLACES[1] + PLACES[2],
    shape=SHAPES,
    target=["plain", "dtensor", "probabilities"],
)
def losses(me: Rank, places: str, shape: tuple[int, ...], target: str) -> None:
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor
    from torch.distributed.tensor.parallel import loss_parallel

    mesh, where = mesh_of(me, len(places)), placements(places)
    x, y, w = problem(shape)
    if target == "probabilities":
        y = torch.rand_like(x).softmax(1)
    given = y if target == "plain" else distribute_tensor(y, mesh, [Replicate()] * mesh.ndim)
    for reduction, parallel in itertools.product(("mean", "sum", "none"), (True, False)):
        options: dict[str, Any] = {"weight": w, "reduction": reduction, "label_smoothing": 0.1}
        alone = x.clone().requires_grad_()
        expected = F.cross_entropy(alone, y, **options)
        expected.sum().backward()
        shared = distribute_tensor(x, mesh, where).requires_grad_()
        with loss_parallel() if parallel else contextlib.nullcontext():
            loss = fused_ce.CrossEntropyLoss(**options)(shared, given)
            (loss.sum() if reduction == "none" else loss).backward()
        assert isinstance(loss, DTensor)
        if reduction != "none":
            assert all(p.is_replicate() for p in loss.placements)
        close(whole(loss), expected)
        assert shared.grad is not None and tuple(shared.grad.placements) == tuple(shared.placements)
        close(whole(shared.grad), alone.grad)


@CASES.add(places=PLACES[1] + PLACES[2], shape=SHAPES)
def statistics(me: Rank, places: str, shape: tuple[int, ...]) -> None:
    from torch.distributed.tensor import distribute_tensor

    mesh = mesh_of(me, len(places))
    x, y, _ = problem(shape)
    options: dict[str, Any] = {"z_loss_weight": 0.1, "softcap": 3.0, "return_lse": True}
    options |= {
        "return_entropy": True,
        "return_prediction": True,
        "row_weight": torch.rand(y.shape),
    }
    shared = distribute_tensor(x, mesh, placements(places))
    for got, expected in (
        (
            fused_ce.cross_entropy_stats(shared, y, **options),
            fused_ce.cross_entropy_stats(x, y, **options),
        ),
        (fused_ce.predict(shared), fused_ce.predict(x)),
    ):
        for a, b in zip(got, expected, strict=True):
            close(whole(a), b)
    with pytest.raises(RuntimeError, match="in_place"):
        fused_ce.cross_entropy_stats(shared, y, in_place=True)


@CASES.add(of_input=["*", "r", "**", "*r", "r*", "rr"], of_weight=["*", "c", "**", "*c", "c*"])
def layers(me: Rank, of_input: str, of_weight: str) -> None:
    from torch.distributed.tensor import distribute_tensor

    if len(of_input) != len(of_weight):
        return
    mesh = mesh_of(me, len(of_input))
    h, w = torch.randn(7, 6, dtype=torch.float64), torch.randn(11, 6, dtype=torch.float64)
    y = torch.randint(11, (7,))
    y[0] = -100
    alone = [h.clone().requires_grad_(), w.clone().requires_grad_()]
    expected = F.cross_entropy(alone[0] @ alone[1].T, y)
    expected.backward()
    shared = [
        distribute_tensor(h, mesh, placements(of_input)).requires_grad_(),
        distribute_tensor(w, mesh, placements(of_weight, class_dim=0)).requires_grad_(),
    ]
    loss = fused_ce.linear_cross_entropy(*shared, y)
    loss.backward()
    close(whole(loss), expected)
    for a, b in zip(shared, alone, strict=True):
        assert a.grad is not None and tuple(a.grad.placements) == tuple(a.placements)
        close(whole(a.grad), b.grad)


@CASES.add(places=["*", "r", "c"], given=["plain", "dtensor"])
def normalizers(me: Rank, places: str, given: str) -> None:
    """Of one number the gradient is whole on every process, wherever the rows are."""
    from torch.distributed.tensor import Replicate, distribute_tensor

    mesh = mesh_of(me, 1)
    x, y, _ = problem((7, 10))
    alone, number = torch.tensor(3.5).requires_grad_(), torch.tensor(3.5)
    fused_ce.cross_entropy_stats(x, y, normalizer=alone).loss.backward()
    by: Any = number if given == "plain" else distribute_tensor(number, mesh, [Replicate()])
    by = by.requires_grad_()
    shared = distribute_tensor(x, mesh, placements(places))
    fused_ce.cross_entropy_stats(shared, y, normalizer=by).loss.backward()
    close(by.grad if given == "plain" else whole(by.grad), alone.grad)


@CASES.add()
def losses_of_slices_take_no_dtensors(me: Rank) -> None:
    from torch.distributed.tensor import distribute_tensor

    shared = distribute_tensor(torch.randn(4, 6), mesh_of(me, 1), placements("c"))
    with pytest.raises(TypeError, match=r"give them to fused_ce\.cross_entropy"):
        fused_ce.distributed.cross_entropy(shared, torch.zeros(4, dtype=torch.long))


@CASES.add()
def tensor_parallel_model(me: Rank) -> None:
    """One written for torch's loss_parallel, with ours in its place."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        loss_parallel,
        parallelize_module,
    )

    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 10))

    x, y = torch.randn(5, 6), torch.randint(10, (5,))
    alone = model()
    F.cross_entropy(alone(x), y).backward()
    plan = {"2": ColwiseParallel(use_local_output=False)}
    parallel = parallelize_module(model(), mesh_of(me, 1), plan)
    with loss_parallel():
        fused_ce.cross_entropy(parallel(x), y).backward()
    for a, b in zip(parallel.parameters(), alone.parameters(), strict=True):
        close(whole(a.grad) if isinstance(a.grad, DTensor) else a.grad, b.grad)


@CASES.add(backend=["aot_eager", "inductor"])
def compiled(me: Rank, backend: str) -> None:
    """Without a break, new sizes included; who has which classes is asked while it is traced."""
    counts = (7, 13) if me.size == 2 else (3, 4, 0, 13)
    own = slice(sum(counts[: me.rank]), sum(counts[: me.rank + 1]))

    def head(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        stats = fused_ce.distributed.cross_entropy_stats(
            x * 2, y, label_smoothing=0.1, return_entropy=True, return_prediction=True
        )
        assert stats.entropy is not None and stats.prediction is not None
        return stats.loss + stats.entropy.mean(), stats.prediction

    def layer(h: Tensor, w: Tensor, y: Tensor) -> tuple[Tensor]:
        return (fused_ce.distributed.linear_cross_entropy(h, w, y),)

    options: dict[str, Any] = {"fullgraph": True, "backend": backend}
    traced_head = torch.compile(head, **options)
    traced_layer = torch.compile(layer, dynamic=backend == "aot_eager", **options)
    for rows in (9, 5):
        x, y = torch.randn(rows, 20), torch.randint(20, (rows,))
        leaves = [x[:, own].clone().requires_grad_()]
        layers = [torch.randn(rows, 5).requires_grad_(), torch.randn(20, 5)[own].requires_grad_()]
        for f, traced, given in ((head, traced_head, leaves), (layer, traced_layer, layers)):
            got, expected = traced(*given, y), f(*given, y)
            close(got, expected)
            for a, b in zip(
                torch.autograd.grad(got[0], given),
                torch.autograd.grad(expected[0], given),
                strict=True,
            ):
                close(a, b)


class Loss(nn.Module):
    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        return fused_ce.distributed.cross_entropy(x, target)


@CASES.add(strict=[True, False])
def exported(me: Rank, strict: bool) -> None:
    """With any number of rows, none of which a process has asked the others about."""
    counts = (8, 12) if me.size == 2 else (3, 4, 0, 13)
    own = slice(sum(counts[: me.rank]), sum(counts[: me.rank + 1]))
    x, y = torch.randn(6, 20), torch.randint(20, (6,))
    rows = torch.export.Dim("rows", min=2, max=100)
    given = (x[:, own].contiguous(), y)
    program = torch.export.export(Loss(), given, strict=strict, dynamic_shapes=({0: rows},) * 2)
    close(program.module()(x[:4, own].contiguous(), y[:4]), F.cross_entropy(x[:4], y[:4]))


@CASES.add()
def compiled_dtensor(me: Rank) -> None:
    from torch.distributed.tensor import distribute_tensor

    traced = torch.compile(fused_ce.cross_entropy, fullgraph=True, backend="aot_eager")
    x, y = torch.randn(6, 10), torch.randint(10, (6,))
    shared = distribute_tensor(x, mesh_of(me, 1), placements("c")).requires_grad_()
    loss = traced(shared, y)
    loss.backward()
    close(whole(loss), F.cross_entropy(x, y))


def in_group(size: int, case: str) -> bool:
    """Meshes of two dimensions, 2 x 2, take four processes; all else is as much between two."""
    two_dims = any(len(part) == 2 and set(part) <= set("*rc") for part in case.split("-"))
    return (size == 4) == two_dims


RUNS = [run for run in itertools.product((2, 4), CASES) if in_group(*run)]


@pytest.mark.parametrize(("size", "case"), RUNS)
def test_dtensor(request: pytest.FixtureRequest, size: int, case: str) -> None:
    CASES.check(request, size, case)
