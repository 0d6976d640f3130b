# SPDX-License-Identifier: BSD-3-Clause
"""Uses that nobody designs for: each gives what torch gives, or raises what torch raises."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import fused_ce
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

X = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0, 1, 2, 3])
P = X.softmax(1)
Loss = Callable[..., torch.Tensor]


class Subclass(torch.Tensor):
    pass


def leaf(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return X.to(dtype, copy=True).requires_grad_()


def negated(x: torch.Tensor) -> torch.Tensor:
    """A tensor whose memory holds -x: a view with the negative bit."""
    view = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert view.is_neg()
    return view


def gradient(loss: torch.Tensor, x: torch.Tensor, grad: torch.Tensor | None = None) -> torch.Tensor:
    return torch.autograd.grad(loss, x, grad)[0]


def of_rows(f: Loss, grad: torch.Tensor) -> torch.Tensor:
    x = leaf()
    return gradient(f(x, T, reduction="none"), x, grad)


def overlapping(f: Loss) -> torch.Tensor:
    numbers = torch.linspace(-1, 1, 9).requires_grad_()
    return gradient(f(numbers.as_strided((4, 5), (1, 1)), T), numbers)


def changed_target(f: Loss, change: Callable[[torch.Tensor], object]) -> torch.Tensor:
    x, target = leaf(), T.clone()
    loss = f(x, target)
    change(target)
    return gradient(loss, x)


def third_order(f: Loss) -> torch.Tensor:
    x = leaf(torch.float64)
    first = torch.autograd.grad(f(x, T), x, create_graph=True)[0]
    second = torch.autograd.grad(first.pow(2).sum(), x, create_graph=True)[0]
    return gradient(second.pow(2).sum(), x)


def of_an_inference_tensor(f: Loss) -> torch.Tensor:
    with torch.inference_mode():
        target = T.clone()
    return f(leaf(), target)


def with_saved_tensors_on(f: Loss, context: object) -> torch.Tensor:
    x = leaf()
    with context:
        loss = f(x, T)
        return gradient(loss, x)


def compiled_autograd(f: Loss) -> torch.Tensor:
    x = leaf()
    compiler = torch.compile(backend="eager", fullgraph=True)
    with torch._dynamo.compiled_autograd._enable(compiler):
        f(x, T, weight=torch.arange(5.0), label_smoothing=0.1).backward()
    return x.grad


def fake(f: Loss) -> tuple[object, ...]:
    with FakeTensorMode():
        x = torch.empty(2, 5, 3, 4, requires_grad=True, memory_format=torch.channels_last)
        loss = f(x, torch.empty(2, 3, 4, dtype=torch.long), reduction="none")
        loss.sum().backward()
        return type(loss), loss.stride(), x.grad.stride()


def two_tensors(f: Loss) -> torch.Tensor:
    x = TwoTensor(X.clone(), 2 * X).requires_grad_()
    grad = gradient(f(x, TwoTensor(T, T)), x)
    return torch.stack([grad.a, grad.b])


def deprecated(f: Loss, **options: bool) -> torch.Tensor:
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        return f(X, T, **options)


def compiled_deprecated(f: Loss, **options: bool) -> torch.Tensor:
    torch._dynamo.reset()
    return torch.compile(lambda x: f(x, T, **options), backend="eager", fullgraph=True)(X)


USES: dict[str, Callable[[Loss], object]] = {
    # types of Python
    "list_of_logits": lambda f: f([[1.0, 2.0]], T),
    "no_logits": lambda f: f(None, T),
    "no_target": lambda f: f(X, None),
    "list_of_targets": lambda f: f(X, [0, 1, 2, 3]),
    "int_target": lambda f: f(X, 1),
    "array_target": lambda f: f(X, np.array([0, 1, 2, 3])),
    "list_of_weights": lambda f: f(X, T, weight=[1.0] * 5),
    "float_weight": lambda f: f(X, T, weight=1.0),
    "str_smoothing": lambda f: f(X, T, label_smoothing="0.1"),
    "no_smoothing": lambda f: f(X, T, label_smoothing=None),
    "complex_smoothing": lambda f: f(X, T, label_smoothing=1j),
    "int_smoothing": lambda f: f(X, T, label_smoothing=1),
    "tensor_smoothing": lambda f: f(X, T, label_smoothing=torch.tensor(0.1)),
    "numpy_smoothing": lambda f: f(X, T, label_smoothing=np.float32(0.1)),
    "float_ignored": lambda f: f(X, T, ignore_index=1.0),
    "str_ignored": lambda f: f(X, T, ignore_index="1"),
    "nothing_ignored": lambda f: f(X, T, ignore_index=None),
    "tensor_ignored": lambda f: f(X, T, ignore_index=torch.tensor(1)),
    "numpy_ignored": lambda f: f(X, T, ignore_index=np.int64(1)),
    "long_ignored": lambda f: f(X, T, ignore_index=2**63),
    "int_reduction": lambda f: f(X, T, reduction=1),
    "no_reduction": lambda f: f(X, T, reduction=None),
    "unknown_option": lambda f: f(X, T, smoothing=0.1),
    "too_many_arguments": lambda f: f(X, T, None, None, -100, None, "mean", 0.1, 0),
    # shapes and dtypes
    "scalar_logits": lambda f: f(torch.tensor(1.0), torch.tensor(0)),
    "scalar_logits_of_one_target": lambda f: f(torch.tensor(1.0), torch.tensor([0])),
    "scalar_probability": lambda f: f(torch.tensor(1.0), torch.tensor(1.0)),
    "integer_weight": lambda f: f(X, T, weight=torch.arange(5)),
    "integer_weight_of_probabilities": lambda f: f(X, P, weight=torch.arange(5)),
    "small_weight_of_probabilities": lambda f: f(X.double(), P, weight=torch.arange(5).short()),
    "bool_weight_of_probabilities": lambda f: f(X, P, weight=T.new_ones(5) > 0, reduction="none"),
    "integer_weight_smoothed": lambda f: f(X, P, weight=torch.arange(5), label_smoothing=0.1),
    "integer_weight_gradient": lambda f: gradient(f(x := leaf(), P, weight=torch.arange(5)), x),
    "float8_weight": lambda f: f(X, P, weight=torch.ones(5).to(torch.float8_e4m3fn)),
    "float8_probabilities": lambda f: f(X, P.to(torch.float8_e4m3fn)),
    "complex_target": lambda f: f(X, X.cfloat()),
    "bool_target": lambda f: f(X, T > 0),
    "float_target": lambda f: f(X, T.float()),
    "scalar_target": lambda f: f(X, torch.tensor(0)),
    "sparse_target": lambda f: f(X, T.to_sparse()),
    "sparse_weight": lambda f: f(X, T, weight=torch.ones(5).to_sparse()),
    "meta_target": lambda f: f(X, T.to("meta")),
    "meta_weight": lambda f: f(X, T, weight=torch.ones(5, device="meta")),
    "nested_logits": lambda f: f(torch.nested.nested_tensor([X, X]), T),
    **{
        f"ignored_{ignored}_of_{dtype}": lambda f, i=ignored, d=dtype: f(X, T.to(d), ignore_index=i)
        for ignored in (-(2**63), 2**63 - 1, 255, 256, 3)
        for dtype in (torch.int64, torch.uint8)
    },
    # memory
    "negated_logits": lambda f: f(negated(X), T),
    "negated_probabilities": lambda f: f(X, negated(P)),
    "negated_weight": lambda f: f(X, T, weight=negated(P[0])),
    "zero_tensor_logits": lambda f: f(torch._efficientzerotensor(4, 5), T),
    "zero_tensor_target": lambda f: f(X, torch._efficientzerotensor(4, dtype=torch.long)),
    "zero_tensor_weight": lambda f: f(X, T, weight=torch._efficientzerotensor(5), reduction="sum"),
    "overlapping_logits": overlapping,
    "expanded_target": lambda f: f(X, T[:1].expand(4)),
    "strided_target": lambda f: f(X, torch.stack([T, T], 1)[:, 0]),
    "expanded_weight": lambda f: f(X, T, weight=torch.tensor(2.0).expand(5)),
    "strided_weight": lambda f: f(X, T, weight=torch.arange(10.0)[::2]),
    "logits_as_probabilities": lambda f: gradient(f(x := leaf(), x), x),
    "detached_logits_as_probabilities": lambda f: gradient(f(x := leaf(), x.detach()), x),
    # gradients of the loss
    "expanded_gradient": lambda f: of_rows(f, torch.ones(()).expand(4)),
    "strided_gradient": lambda f: of_rows(f, torch.arange(8.0)[::2]),
    "negated_gradient": lambda f: of_rows(f, negated(torch.arange(4.0))),
    "zero_tensor_gradient": lambda f: of_rows(f, torch._efficientzerotensor(4)),
    "integer_gradient": lambda f: of_rows(f, torch.arange(4)),
    "half_gradient": lambda f: of_rows(f, torch.arange(4.0).half()),
    "double_gradient": lambda f: of_rows(f, torch.arange(4.0).double()),
    "sparse_gradient": lambda f: of_rows(f, torch.arange(4.0).to_sparse()),
    "meta_gradient": lambda f: of_rows(f, torch.ones(4, device="meta")),
    "gradient_of_another_shape": lambda f: of_rows(f, torch.ones(5)),
    "third_order": third_order,
    # between forward and backward
    "changed_target": lambda f: changed_target(f, torch.Tensor.zero_),
    "resized_target": lambda f: changed_target(f, lambda t: t.resize_(1)),
    "target_in_inference_mode": of_an_inference_tensor,
    "saved_on_cpu": lambda f: with_saved_tensors_on(f, torch.autograd.graph.save_on_cpu()),
    "copies_saved": lambda f: with_saved_tensors_on(
        f, torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone)
    ),
    "one_thread": lambda f: with_saved_tensors_on(
        f, torch.autograd.set_multithreading_enabled(False)
    ),
    # subclasses and modes
    "subclass": lambda f: (
        type(f(X.as_subclass(Subclass), T)),
        type(f(X, T.as_subclass(Subclass))),
    ),
    "parameter": lambda f: type(f(torch.nn.Parameter(X), T)),
    "two_tensors": two_tensors,
    "fake": fake,
    "functionalize": lambda f: torch.func.functionalize(lambda x: f(x, T))(X),
    "compiled_autograd": compiled_autograd,
    "no_target_within_a_transform": lambda f: torch.func.grad(lambda x: f(x, None))(X),
    "linearize": lambda f: torch.func.linearize(lambda x: f(x, T), X)[1](X),
    # deprecated, and compiled
    **{
        f"{name}_{'_'.join(options)}": lambda f, call=call, o=options: call(f, **o)
        for name, call in (("deprecated", deprecated), ("compiled", compiled_deprecated))
        for options in (
            {"size_average": False},
            {"reduce": False},
            {"size_average": False, "reduce": True},
        )
    },
}


def outcome(use: Callable[[Loss], object], f: Loss) -> object:
    try:
        return use(f)
    except (AssertionError, AttributeError, ImportError):  # of the test itself
        raise
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("name", USES)
def test_as_torch(name: str) -> None:
    ours, theirs = (outcome(USES[name], f) for f in (fused_ce.cross_entropy, F.cross_entropy))
    if torch.is_tensor(theirs):
        torch.testing.assert_close(ours, theirs)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input": [1.0]}, "argument 'input' must be Tensor, not list"),
        ({"target": None}, "argument 'target' must be Tensor, not None"),
        ({"weight": [1.0]}, r"argument 'weight' must be .*Tensor.*, not list"),
        ({"ignore_index": "1"}, "argument 'ignore_index' must be int, not str"),
        ({"ignore_index": True}, "argument 'ignore_index' must be int, not bool"),
        ({"label_smoothing": None}, "argument 'label_smoothing' must be float, not NoneType"),
    ],
    ids=str,
)
def test_type_errors_name_the_argument(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        fused_ce.cross_entropy(**{"input": X, "target": T, **arguments})


def test_graph_names_its_nodes() -> None:
    x = leaf()
    loss = fused_ce.cross_entropy(x, T)
    (grad,) = torch.autograd.grad(loss, x, create_graph=True)
    assert loss.grad_fn.name() == "fused_ce::CrossEntropyBackward"
    assert grad.grad_fn.name() == "fused_ce::CrossEntropyBackwardBackward"


def test_ignore_index_of_a_compiled_function() -> None:
    torch._dynamo.reset()
    f = torch.compile(fused_ce.cross_entropy, backend="aot_eager", fullgraph=True, dynamic=True)
    for ignored in (3, 2, -7):
        torch.testing.assert_close(
            f(X, T, ignore_index=ignored), F.cross_entropy(X, T, ignore_index=ignored)
        )


def test_scripted_module_saved_and_loaded() -> None:
    module = fused_ce.CrossEntropyLoss(torch.arange(5.0), ignore_index=1, label_smoothing=0.1)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert torch.equal(loaded(X, T), module(X, T))
    assert torch.equal(torch.jit.freeze(loaded.eval())(X, T), module(X, T))


def test_weight_of_a_module() -> None:
    """A buffer: it moves with the module, and may be set, as in torch."""
    for cls in (fused_ce.CrossEntropyLoss, torch.nn.CrossEntropyLoss):
        module = cls(weight=torch.arange(5.0))
        twin = copy.deepcopy(module)
        module.double()
        assert module(X.double(), T).dtype == torch.float64
        assert twin(X, T).dtype == torch.float32
        with pytest.raises(RuntimeError, match="expected scalar type Float but found Double"):
            module(X, T)
        assert module.to("meta")(X.double().to("meta"), T.to("meta")).device.type == "meta"
        twin.load_state_dict({"weight": torch.ones(5)})
        torch.testing.assert_close(twin(X, T), F.cross_entropy(X, T))
        twin.weight = None
        torch.testing.assert_close(twin(X, T), F.cross_entropy(X, T))
        with pytest.raises(TypeError):
            cls(weight=[1.0] * 5)
