# SPDX-License-Identifier: BSD-3-Clause
"""fused_ce.CrossEntropyLoss in the place of torch.nn.CrossEntropyLoss."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from typing import Any

import fused_ce
import pytest
import torch
from torch import fx, nn

X = torch.linspace(-2, 2, 40).view(8, 5)
T = torch.tensor([0, 1, 2, 3, 4, 0, 1, 2])
WEIGHT = torch.linspace(0.5, 1.5, 5)
OP = torch.ops.fused_ce.cross_entropy
OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "weight": {"weight": WEIGHT, "reduction": "sum"},
    "all": {
        "weight": WEIGHT,
        "ignore_index": 2,
        "reduction": "none",
        "label_smoothing": 0.1,
    },
}
CASES = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


class Subclass(fused_ce.CrossEntropyLoss):
    """A user's, with a forward of its own."""

    def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input, target)


class Nested(nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.criterion = fused_ce.CrossEntropyLoss(**options)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.criterion(x, t)


def both(options: dict[str, Any]) -> tuple[fused_ce.CrossEntropyLoss, nn.CrossEntropyLoss]:
    return fused_ce.CrossEntropyLoss(**options), nn.CrossEntropyLoss(**options)


def operators(run: Callable[[], object]) -> set[str]:
    with torch.profiler.profile() as profile:
        run()
    return {event.name for event in profile.events() if event.name.endswith("cross_entropy")}


def test_is_torchs() -> None:
    module = fused_ce.CrossEntropyLoss()
    assert isinstance(module, nn.CrossEntropyLoss)
    assert issubclass(fused_ce.CrossEntropyLoss, nn.CrossEntropyLoss)
    assert fused_ce.CrossEntropyLoss.__constants__ == nn.CrossEntropyLoss.__constants__
    # An argument that torch adds, and that forward does not know, would be ignored in silence.
    of_class = inspect.signature(fused_ce.CrossEntropyLoss).parameters.values()
    of_function = list(inspect.signature(fused_ce.cross_entropy).parameters.values())[2:]
    assert [(p.name, p.default) for p in of_class] == [(p.name, p.default) for p in of_function]


@CASES
def test_forward(options: dict[str, Any]) -> None:
    """Our operator, torch's result; also called by torch's names of the arguments."""
    ours, theirs = both(options)
    torch.testing.assert_close(ours(X, T), theirs(X, T))
    assert torch.equal(ours(input=X, target=T), ours(X, T))
    assert operators(lambda: ours(X, T)) == {"fused_ce::cross_entropy"}


@CASES
def test_attributes(options: dict[str, Any]) -> None:
    ours, theirs = both(options)
    assert repr(ours) == repr(theirs) == "CrossEntropyLoss()"
    for name in ("ignore_index", "reduction", "label_smoothing"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert (ours.weight is None) == (theirs.weight is None)
    assert dict(ours.named_buffers()).keys() == dict(theirs.named_buffers()).keys()


def test_attributes_are_read_by_each_call() -> None:
    ours, theirs = both({})
    for module in (ours, theirs):
        module.reduction, module.ignore_index, module.label_smoothing = "sum", 1, 0.3
        module.weight = WEIGHT
    torch.testing.assert_close(ours(X, T), theirs(X, T))


def call_constructor(constructor: Callable[..., nn.Module], arguments: dict[str, Any]) -> Any:
    try:
        return vars(constructor(**arguments))
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "arguments",
    [
        {"weight": [1.0, 2.0]},
        {"weight": 1.0},
        {"weight": nn.Parameter(WEIGHT)},
        {"reduction": "median"},
        {"label_smoothing": 2.0},
        {"unknown": 1},
        {"ignore_index": None},
    ],
    ids=str,
)
def test_constructor(arguments: dict[str, Any]) -> None:
    """Refuses, or takes, what torch's does: most is only looked at by a call."""
    ours, theirs = (
        call_constructor(c, arguments) for c in (fused_ce.CrossEntropyLoss, nn.CrossEntropyLoss)
    )
    assert str(ours) == str(theirs)


@pytest.mark.parametrize(
    ("legacy", "reduction"),
    [
        ({"size_average": False}, "sum"),
        ({"size_average": True}, "mean"),
        ({"reduce": False}, "none"),
        ({"reduce": True, "size_average": False}, "sum"),
    ],
    ids=str,
)
def test_deprecated(legacy: dict[str, bool], reduction: str) -> None:
    with pytest.warns(UserWarning, match="deprecated"):
        assert fused_ce.CrossEntropyLoss(**legacy).reduction == reduction


def test_bad_calls() -> None:
    for arguments, error in (
        ({"reduction": "median"}, ValueError),
        ({"label_smoothing": 2.0}, RuntimeError),
        ({"weight": torch.ones(4)}, RuntimeError),
        ({"ignore_index": "1"}, TypeError),
    ):
        for module in both(arguments):
            with pytest.raises(error):
                module(X, T)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@CASES
def test_script(options: dict[str, Any]) -> None:
    for module in (fused_ce.CrossEntropyLoss(**options), Nested(options)):
        scripted = torch.jit.script(module)
        assert "fused_ce::cross_entropy" in str(scripted.inlined_graph)
        assert torch.equal(scripted(X, T), module(X, T))
        file = io.BytesIO()
        torch.jit.save(scripted, file)
        file.seek(0)
        assert torch.equal(torch.jit.load(file)(X, T), module(X, T))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@CASES
def test_trace(options: dict[str, Any]) -> None:
    module = Nested(options)
    traced = torch.jit.trace(module, (X, T))
    assert "fused_ce::cross_entropy" in str(traced.inlined_graph)
    assert torch.equal(traced(2 * X, T), module(2 * X, T))


@CASES
def test_fx(options: dict[str, Any]) -> None:
    """Traced into, in a model and by itself: torch.fx has leaves of torch.nn alone."""
    module = Nested(options)
    for root in (module, module.criterion):
        graph = fx.symbolic_trace(root)
        assert fused_ce.cross_entropy in {node.target for node in graph.graph.nodes}
        assert torch.equal(graph(X, T), module(X, T))


@CASES
def test_compile(options: dict[str, Any]) -> None:
    module = Nested(options)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    x = X.clone().requires_grad_()
    loss = compiled(x, T)
    assert torch.equal(loss, module(x, T))
    (ours,) = torch.autograd.grad(loss.sum(), x)
    (theirs,) = torch.autograd.grad(nn.CrossEntropyLoss(**options)(x, T).sum(), x)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("strict", [False, True])
@CASES
def test_export(options: dict[str, Any], strict: bool) -> None:
    module = Nested(options)
    program = torch.export.export(module, (X, T), strict=strict)
    assert OP.default in {node.target for node in program.graph.nodes}
    assert list(program.state_dict) == list(module.state_dict())
    assert torch.equal(program.module()(2 * X, T), module(2 * X, T))


def by_torch_save(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    copied: nn.Module = torch.load(file, weights_only=False)
    return copied


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), by_torch_save],
    ids=["copy", "deepcopy", "pickle", "torch.save"],
)
@pytest.mark.parametrize("kind", [fused_ce.CrossEntropyLoss, Subclass])
@CASES
def test_copies(
    options: dict[str, Any], kind: type[nn.Module], copied: Callable[[nn.Module], nn.Module]
) -> None:
    module = kind(**options)
    twin = copied(module)
    assert type(twin) is kind
    assert torch.equal(twin(X, T), module(X, T))


def test_state_dict() -> None:
    """weight is a buffer, under torch's name: each loads the other's, from a file as well."""
    for source, target in (both({"weight": WEIGHT}), both({"weight": WEIGHT})[::-1]):
        source.weight = 3 * WEIGHT
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.weight = torch.ones(5)
        result = target.load_state_dict(torch.load(file))
        assert not result.missing_keys and not result.unexpected_keys
        assert torch.equal(target.weight, source.weight)
    ours, theirs = both({})
    assert ours.state_dict() == theirs.state_dict() == {}


def test_movement() -> None:
    module = Nested({"weight": WEIGHT.clone()}).double()
    assert module.criterion.weight.dtype == torch.float64
    assert module(X.double(), T).dtype == torch.float64
    moved = module.to("meta")
    assert moved.criterion.weight.device.type == "meta"
    assert moved(X.double().to("meta"), T.to("meta")).device.type == "meta"


def test_functional_call() -> None:
    module = Nested({"weight": WEIGHT})
    other = {"criterion.weight": WEIGHT.flip(0)}
    torch.testing.assert_close(
        torch.func.functional_call(module, other, (X, T)),
        nn.CrossEntropyLoss(WEIGHT.flip(0))(X, T),
    )


def test_subclass() -> None:
    class Own(fused_ce.CrossEntropyLoss):
        def __init__(self, scale: float) -> None:
            super().__init__(label_smoothing=0.1)
            self.scale = scale

        def forward(self, input: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return self.scale * super().forward(input, target)

    torch.testing.assert_close(Own(3.0)(X, T), 3 * nn.CrossEntropyLoss(label_smoothing=0.1)(X, T))
    assert operators(lambda: Own(3.0)(X, T)) == {"fused_ce::cross_entropy"}


def test_hooks() -> None:
    seen = []
    module = fused_ce.CrossEntropyLoss()
    module.register_forward_pre_hook(lambda _, args: seen.append(len(args)))
    module.register_forward_hook(lambda _, args, loss: 2 * loss)
    torch.testing.assert_close(module(X, T), 2 * nn.CrossEntropyLoss()(X, T))
    assert seen == [2]
