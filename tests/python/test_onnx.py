# SPDX-License-Identifier: BSD-3-Clause
"""torch.onnx.export, by both of its exporters, run by onnxruntime."""

from __future__ import annotations

import functools
import io
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DEVICE

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = [
    pytest.mark.skipif(DEVICE != "cpu", reason="onnxruntime is the CPU's"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

OP = torch.ops.fused_ce.cross_entropy
X = torch.linspace(-2, 2, 20).view(5, 4)
T = torch.tensor([0, 1, 2, 3, 1])
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 1.5, 0.25])

EXPORTERS = pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])


class Model(torch.nn.Module):
    """A layer, and the loss of its logits."""

    def __init__(self, loss: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 5)
        self.loss = loss

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.loss(self.layer(x), t)


def export(model: Any, t: torch.Tensor, dynamo: bool = True, **options: Any) -> bytes:
    """The ONNX model, with the operators of ONNX's own domain alone."""
    if dynamo:
        program = torch.onnx.export(model, (X, t), dynamo=True, verbose=False, **options)
        proto = program.model_proto
    else:
        file = io.BytesIO()
        torch.onnx.export(model, (X, t), file, dynamo=False, **options)
        proto = onnx.load_from_string(file.getvalue())
    nodes = [*proto.graph.node, *(node for f in proto.functions for node in f.node)]
    assert nodes and {node.domain for node in nodes} <= {"", "pkg.torch.onnx"}
    assert not any("fused_ce" in node.op_type or "_forward" in node.op_type for node in nodes)
    return proto.SerializeToString()


def run(exported: bytes, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    (loss,) = session.run(None, dict(zip(names, (x.numpy(), t.numpy()), strict=True)))
    return torch.tensor(loss)


def check(exported: bytes, model: Model, reference: Callable[..., torch.Tensor], t: Any) -> None:
    """The file gives torch's loss, on other numbers than it was exported with."""
    x = 3 * X.flip(0) - 1
    with torch.no_grad():
        expected = reference(model.layer(x), t)
    torch.testing.assert_close(run(exported, x, t), expected)


OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignore_index": {"ignore_index": 1},
    "weight": {"weight": WEIGHT},
    "weight_ignore_index": {"weight": WEIGHT, "ignore_index": 3, "reduction": "none"},
    "label_smoothing": {"label_smoothing": 0.2},
    "all": {"weight": WEIGHT, "ignore_index": 2, "label_smoothing": 0.3},
}


@EXPORTERS
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(options: dict[str, Any], dynamo: bool) -> None:
    model = Model(fused_ce.CrossEntropyLoss(**options))
    check(export(model, T, dynamo), model, functools.partial(F.cross_entropy, **options), T)


@EXPORTERS
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_probabilities(smoothing: float, reduction: str, dynamo: bool) -> None:
    t = torch.linspace(-1, 1, 25).view(5, 5).softmax(1)
    options = {"weight": WEIGHT, "reduction": reduction, "label_smoothing": smoothing}
    model = Model(functools.partial(fused_ce.cross_entropy, **options))
    check(export(model, t, dynamo), model, functools.partial(F.cross_entropy, **options), t)


@EXPORTERS
def test_planes(dynamo: bool) -> None:
    """Logits of shape (N, C, d1), targets of shape (N, d1)."""
    model = Model(lambda z, t: fused_ce.cross_entropy(z.view(1, 5, 5), t.view(1, 5)))
    check(
        export(model, T, dynamo),
        model,
        lambda z, t: F.cross_entropy(z.view(1, 5, 5), t.view(1, 5)),
        T,
    )


@EXPORTERS
def test_dynamic_batch(dynamo: bool) -> None:
    """A file that takes any number of rows."""
    rows = torch.export.Dim("rows")
    shapes = (
        {"dynamic_shapes": ({0: rows}, {0: rows})}
        if dynamo
        else {"input_names": ["x", "t"], "dynamic_axes": {"x": {0: "rows"}, "t": {0: "rows"}}}
    )
    model = Model(fused_ce.cross_entropy)
    exported = export(model, T, dynamo, **shapes)
    for n in (3, 5, 8):
        x, t = torch.randn(n, 4), torch.arange(n) % 5
        with torch.no_grad():
            torch.testing.assert_close(run(exported, x, t), F.cross_entropy(model.layer(x), t))


@pytest.mark.parametrize("form", [OP, fused_ce.cross_entropy], ids=["operator", "function"])
@pytest.mark.parametrize("way", ["model", "program", "strict"])
def test_graph(way: str, form: Callable[..., torch.Tensor]) -> None:
    """The operator in a graph, where no function of ours is asked any more."""
    model = Model(form)
    exported: Any = model
    if way != "model":
        exported = torch.export.export(model, (X, T), strict=way == "strict")
        assert OP.default in {node.target for node in exported.graph.nodes}
    check(export(exported, T), model, F.cross_entropy, T)


@EXPORTERS
def test_autocast(dynamo: bool) -> None:
    """The logits come in half precision, the loss is of float32."""

    class Model16(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.float16):
                return fused_ce.cross_entropy(torch.cat([x, x[:, :1]], 1).half(), t)

    loss = run(export(Model16(), T, dynamo), X, T)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, Model16()(X, T))


def test_symbolic() -> None:
    """Where dynamo=False meets the operator itself, it takes a line of the user's (README)."""
    from torch.onnx.symbolic_opset12 import cross_entropy_loss

    name = "fused_ce::cross_entropy"
    model, scripted = Model(OP), Model(fused_ce.CrossEntropyLoss(WEIGHT))
    with pytest.raises(torch.onnx.errors.UnsupportedOperatorError, match=name):
        export(model, T, dynamo=False)
    torch.onnx.register_custom_op_symbolic(name, cross_entropy_loss, 12)
    try:
        files = [export(m, T, dynamo=False) for m in (model, torch.jit.script(scripted))]
    finally:
        torch.onnx.unregister_custom_op_symbolic(name, 12)
    check(files[0], model, F.cross_entropy, T)
    check(files[1], scripted, functools.partial(F.cross_entropy, weight=WEIGHT), T)


@EXPORTERS
def test_only_while_exporting(dynamo: bool) -> None:
    """Before, after, and in the graphs of torch.export and torch.jit.trace, it is the operator."""
    model = Model(fused_ce.cross_entropy)
    export(model, T, dynamo)
    program = torch.export.export(model, (X, T)).run_decompositions()
    assert torch.ops.fused_ce._forward.default in {node.target for node in program.graph.nodes}
    assert "fused_ce::cross_entropy" in str(torch.jit.trace(model, (X, T)).graph)
    with torch.profiler.profile() as profile:
        model(X, T)
    assert not any(event.name == "aten::cross_entropy_loss" for event in profile.events())


def test_import_is_lean() -> None:
    """Whoever does not export pays for none of it."""
    script = (
        "import sys, torch; before = set(sys.modules); import fused_ce;"
        "fused_ce.cross_entropy(torch.randn(2, 3), torch.tensor([0, 1]));"
        "new = {m for m in sys.modules if m.partition('.')[0] != 'fused_ce'} - before;"
        "assert not {m for m in new if 'onnx' in m or m.startswith('torch._dynamo')}, new"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_import_again() -> None:
    """The operator outlives the package's modules, and its Python kernels are set once more."""
    script = (
        "import sys, fused_ce;"
        "[sys.modules.pop(m) for m in list(sys.modules) if m.partition('.')[0] == 'fused_ce'];"
        "import fused_ce"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


class LinearModel(torch.nn.Module):
    """A layer with its loss."""

    def __init__(self, shape: tuple[int, ...], **options: Any) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(*shape, 4))
        self.bias = torch.nn.Parameter(torch.randn(shape))
        self.options = options

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return fused_ce.linear_cross_entropy(
            x, self.weight, t, linear_bias=self.bias, chunk_rows=2, **self.options
        )


@EXPORTERS
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize(
    ("shape", "target"),
    [((5,), T), ((5,), torch.rand(5, 5)), ((5, 2), T[:, None].expand(5, 2).contiguous())],
    ids=["indices", "probabilities", "planes"],
)
def test_linear(shape: tuple[int, ...], target: torch.Tensor, reduction: str, dynamo: bool) -> None:
    model = LinearModel(shape, reduction=reduction, label_smoothing=0.1)
    session = onnxruntime.InferenceSession(export(model, target, dynamo))
    names = [i.name for i in session.get_inputs()]
    (loss,) = session.run(None, dict(zip(names, (X.numpy(), target.numpy()), strict=True)))
    torch.testing.assert_close(torch.as_tensor(loss), model(X, target), rtol=1e-5, atol=1e-6)
