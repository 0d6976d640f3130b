# SPDX-License-Identifier: BSD-3-Clause
"""Ours in code that calls torch's: replace_modules and patch_torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

X = torch.linspace(-2, 2, 40).view(8, 5)
T = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
TORCHS = {name: getattr(F, name) for name in dir(F) if callable(getattr(F, name))}
PATCHED = {"cross_entropy", "linear_cross_entropy"} & TORCHS.keys()
OPTIONS: dict[str, Any] = {
    "weight": torch.linspace(0.5, 1.5, 5),
    "ignore_index": 2,
    "reduction": "sum",
    "label_smoothing": 0.1,
}
needs_linear = pytest.mark.skipif(
    not hasattr(nn, "LinearCrossEntropyLoss"), reason="this torch has no LinearCrossEntropyLoss"
)


@pytest.fixture(autouse=True)
def _torch_is_left_as_it_was() -> Iterator[None]:
    yield
    assert all(getattr(F, name) is function for name, function in TORCHS.items())
    assert not fused_ce.patch_torch.is_enabled()


class Derived(nn.CrossEntropyLoss):
    """A user's, which computes something else."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return 2 * super().forward(input, target)


def is_ours(loss: Tensor) -> bool:
    assert loss.grad_fn is not None
    return loss.grad_fn.name().startswith("fused_ce::")


def loss_of(criterion: Any) -> Tensor:
    result: Tensor = criterion(X.clone().requires_grad_(), T)
    return result


# ---- replace_modules


def test_replaced_modules_keep_all_they_have() -> None:
    theirs = nn.CrossEntropyLoss(**OPTIONS)
    model = nn.Sequential(nn.Linear(5, 5), theirs).eval()
    seen: list[str] = []
    theirs.register_forward_hook(lambda *_: seen.append("hook"))
    before, state, text = loss_of(theirs), model.state_dict(), repr(model)

    assert fused_ce.replace_modules(model) == 1
    assert model[1] is theirs and type(theirs) is fused_ce.CrossEntropyLoss
    assert model.state_dict().keys() == state.keys()
    assert theirs.weight is OPTIONS["weight"] and not theirs.training
    assert repr(model) == text
    after = loss_of(theirs)
    assert is_ours(after) and seen == ["hook", "hook"]
    torch.testing.assert_close(after, before)
    assert fused_ce.replace_modules(model) == 0


def test_a_model_may_be_the_loss_itself() -> None:
    criterion = nn.CrossEntropyLoss()
    assert fused_ce.replace_modules(criterion) == 1
    assert is_ours(loss_of(criterion))


def test_a_shared_module_counts_once() -> None:
    shared = nn.CrossEntropyLoss()
    model = nn.ModuleList([shared, shared, nn.Sequential(shared, nn.CrossEntropyLoss())])
    assert fused_ce.replace_modules(model) == 2
    assert model[0] is model[1] is model[2][0]


def test_other_modules_are_left_alone() -> None:
    scripted = torch.jit.script(nn.CrossEntropyLoss())
    model = nn.ModuleList([Derived(), fused_ce.CrossEntropyLoss(), nn.NLLLoss(), scripted])
    classes = [type(module) for module in model]
    assert fused_ce.replace_modules(model) == 0
    assert [type(module) for module in model] == classes


@needs_linear
def test_the_linear_module() -> None:
    theirs = nn.LinearCrossEntropyLoss(5, 7, bias=True, label_smoothing=0.1)
    hidden = X.clone().requires_grad_()
    before = theirs(hidden, T)
    parameters = list(theirs.parameters())
    assert fused_ce.replace_modules(nn.ModuleList([theirs])) == 1
    assert isinstance(theirs, fused_ce.LinearCrossEntropyLoss)
    assert all(p is q for p, q in zip(theirs.parameters(), parameters, strict=True))
    after = theirs(hidden, T)
    assert is_ours(after)
    torch.testing.assert_close(after, before)
    assert "chunk_rows=None" in repr(theirs)


def test_a_compiled_model_is_compiled_again() -> None:
    graphs: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Any:
        graphs.append(str(graph.graph))
        return graph

    criterion = nn.CrossEntropyLoss(**OPTIONS)
    compiled = torch.compile(criterion, backend=backend, fullgraph=True)
    before = compiled(X, T)
    assert fused_ce.replace_modules(compiled) == 1
    torch.testing.assert_close(compiled(X, T), before)
    assert ["fused_ce" in graph for graph in graphs] == [False, True]


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"argument 'model' must be a torch.nn.Module, not list"):
        fused_ce.replace_modules([nn.CrossEntropyLoss()])  # type: ignore[arg-type]


# ---- patch_torch


def test_a_block_patches_torch_and_nothing_else() -> None:
    criterion = nn.CrossEntropyLoss(**OPTIONS)
    before = loss_of(criterion)
    assert not is_ours(before)
    with fused_ce.patch_torch():
        assert fused_ce.patch_torch.is_enabled()
        changed = {name for name in TORCHS if getattr(F, name) is not TORCHS[name]}
        assert changed == PATCHED
        assert F.cross_entropy.__module__ == "fused_ce.functional"
        assert torch._C._len_torch_function_stack() == 0  # no mode that other calls go through
        inside = loss_of(criterion)
        assert is_ours(inside) and is_ours(loss_of(F.cross_entropy))
    torch.testing.assert_close(inside, before)
    assert not is_ours(loss_of(criterion))


@needs_linear
def test_the_linear_function_and_its_module() -> None:
    theirs = nn.LinearCrossEntropyLoss(5, 7)
    with fused_ce.patch_torch():
        assert is_ours(theirs(X.clone().requires_grad_(), T))
    assert not is_ours(theirs(X.clone().requires_grad_(), T))


def test_a_block_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), fused_ce.patch_torch():
        raise KeyError


def test_enable_and_disable() -> None:
    for _ in range(2):  # a second time changes nothing
        fused_ce.patch_torch.enable()
    assert is_ours(loss_of(F.cross_entropy))
    with fused_ce.patch_torch(), fused_ce.patch_torch():
        fused_ce.patch_torch.disable()
        assert is_ours(loss_of(F.cross_entropy))  # the blocks are still running
    assert not is_ours(loss_of(F.cross_entropy))
    fused_ce.patch_torch.disable()


def test_all_threads_see_it_until_the_last_block_ends() -> None:
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with fused_ce.patch_torch():
            entered.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert entered.wait(60)
    assert is_ours(loss_of(F.cross_entropy))
    with fused_ce.patch_torch():
        leave.set()
        thread.join()
        assert is_ours(loss_of(F.cross_entropy))


def another(*args: Any) -> None:
    """A function of another library, in torch's place."""


@pytest.fixture
def _torchs_is_put_back() -> Iterator[None]:
    yield
    F.cross_entropy = TORCHS["cross_entropy"]


REPLACED = "cross_entropy was replaced by another function while"


@pytest.mark.usefixtures("_torchs_is_put_back")
def test_what_another_put_there_stays() -> None:
    with pytest.warns(UserWarning, match=REPLACED) as warned, fused_ce.patch_torch():
        F.cross_entropy = another  # type: ignore[assignment]
    assert len(warned) == 1 and warned[0].filename == __file__
    assert F.cross_entropy is another
    assert not fused_ce.patch_torch.is_enabled()


@pytest.mark.usefixtures("_torchs_is_put_back")
@pytest.mark.filterwarnings("error")
def test_a_warning_that_is_an_error_comes_last() -> None:
    with pytest.raises(UserWarning, match=REPLACED), fused_ce.patch_torch():
        F.cross_entropy = another  # type: ignore[assignment]
    block = fused_ce.patch_torch()
    block.__enter__()
    F.cross_entropy = another  # type: ignore[assignment]
    block.__exit__(KeyError, KeyError(), None)  # no warning in the place of the exception
    assert all(getattr(F, name) is TORCHS[name] for name in PATCHED - {"cross_entropy"})
    F.cross_entropy = TORCHS["cross_entropy"]
    with fused_ce.patch_torch():
        assert is_ours(loss_of(F.cross_entropy))


@pytest.mark.filterwarnings("error")
def test_torchs_own_put_back_is_no_other_function() -> None:
    with fused_ce.patch_torch():
        F.cross_entropy = TORCHS["cross_entropy"]


@pytest.mark.usefixtures("_torchs_is_put_back")
def test_ours_put_back_by_another_is_undone_later() -> None:
    block = fused_ce.patch_torch()
    block.__enter__()
    saved, F.cross_entropy = F.cross_entropy, another  # type: ignore[assignment]
    with pytest.warns(UserWarning, match=REPLACED):
        block.__exit__(None, None, None)
    F.cross_entropy = saved
    assert fused_ce.patch_torch.is_enabled()
    with fused_ce.patch_torch():
        assert is_ours(loss_of(F.cross_entropy))
    assert not is_ours(loss_of(F.cross_entropy))


def test_ours_that_was_there_before_stays() -> None:
    script = (
        "import fused_ce, torch.nn.functional as F\n"
        "F.cross_entropy = fused_ce.cross_entropy\n"
        "with fused_ce.patch_torch(): pass\n"
        "assert F.cross_entropy is fused_ce.cross_entropy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_scripted_and_traced() -> None:
    with fused_ce.patch_torch():
        scripted = torch.jit.script(nn.CrossEntropyLoss(**OPTIONS))
        traced = torch.jit.trace(nn.CrossEntropyLoss(**OPTIONS), (X, T))
    for module in (scripted, traced):
        assert "fused_ce::cross_entropy" in str(module.inlined_graph)
        torch.testing.assert_close(module(X, T), nn.CrossEntropyLoss(**OPTIONS)(X, T))


# Dynamo looks torch's functions up once a process, by their names: each order has a process.
COMPILED = """
import torch, fused_ce, torch.nn.functional as F
graphs = []
def backend(graph, _):
    graphs.append("fused_ce" in str(graph.graph) or "fused_ce" in graph.code)
    return graph
X = torch.randn(8, 5, requires_grad=True)
T = torch.randint(5, (8,))
def compiled(function):
    return torch.compile(function, backend=backend, fullgraph=True)
def check(function, ours):
    loss, expected = function(X, T), TORCHS(X, T)
    torch.testing.assert_close(loss, expected)
    gradients = [torch.autograd.grad(l, X)[0] for l in (loss, expected)]
    torch.testing.assert_close(*gradients)
    assert graphs[-1] == ours, graphs
TORCHS = F.cross_entropy
module = torch.nn.CrossEntropyLoss()
def made_inside(x, t):
    return torch.nn.CrossEntropyLoss()(x, t)
"""
ORDERS = {
    "the first compilation of all": """
with fused_ce.patch_torch():
    check(compiled(module), True)
    check(compiled(made_inside), True)
    check(compiled(lambda x, t: F.cross_entropy(x, t)), True)
check(compiled(lambda x, t: F.cross_entropy(x, t)), False)
check(compiled(lambda x, t: fused_ce.cross_entropy(x, t)), True)
""",
    "after others": """
check(compiled(lambda x, t: F.cross_entropy(x, t)), False)
check(compiled(lambda x, t: fused_ce.cross_entropy(x, t)), True)
with fused_ce.patch_torch():
    check(compiled(module), True)
    check(compiled(made_inside), True)
    check(compiled(lambda x, t: F.cross_entropy(x, t)), True)
check(compiled(lambda x, t: F.cross_entropy(x, t)), False)
torch._dynamo.reset()
losses = [compiled(module), compiled(lambda x, t: F.cross_entropy(x, t))]
for loss in losses:
    check(loss, False)
with fused_ce.patch_torch():  # is compiled again
    for loss in losses:
        check(loss, True)
    loss = torch.compile(module, fullgraph=True)
    torch.testing.assert_close(loss(X, T), TORCHS(X, T))
    with torch.profiler.profile() as profile:
        loss(X, T)
    assert any(event.name == "fused_ce::_forward" for event in profile.events())
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_compiled(order: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMPILED + order], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
