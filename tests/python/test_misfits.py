# SPDX-License-Identifier: BSD-3-Clause
"""Calls whose arguments do not fit: refused, or answered with the right shape; never trusted.

The private operators too: in a graph that was changed by hand, or with memory that was freed,
they read and write nothing that is not theirs (make sanitize-python SANITIZE_PYTESTS=misfits).
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable

import fused_ce
import pytest
import torch
from conftest import DEVICE, DTYPES, SIMT

pytestmark = [
    pytest.mark.skipif(DEVICE != "cpu" or bool(SIMT), reason="a bad index ends all use of a GPU"),
    pytest.mark.filterwarnings("ignore"),  # of torch, while odd tensors are made
]

OPS = torch.ops.fused_ce
REFUSALS = (RuntimeError, TypeError, ValueError, IndexError)  # NotImplementedError is the first
ALL_DTYPES = sorted({d for d in vars(torch).values() if isinstance(d, torch.dtype)}, key=str)
UNKNOWN_DTYPES = [d for d in ALL_DTYPES if d not in DTYPES]
NOT_ALLOCATED = "not allocated"

Arguments = dict[str, object]
Misfit = Callable[[random.Random, torch.Tensor], torch.Tensor]


# ---- What was a fault: memory that was freed -----------------------------------------------------


def resized(t: torch.Tensor, nbytes: int) -> torch.Tensor:
    t.untyped_storage().resize_(nbytes)
    return t


def arguments(
    kind: str = "indices", rows: int = 1000, classes: int = 50
) -> dict[str, torch.Tensor]:
    target = torch.rand(rows, classes) if kind == "probabilities" else torch.zeros(rows).long()
    return {"input": torch.randn(rows, classes), "target": target, "weight": torch.rand(classes)}


@pytest.mark.parametrize("left", ["nothing", "one_byte_less"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("name", ["input", "target", "weight"])
@pytest.mark.parametrize("grad", [False, True])
def test_freed_before_forward(name: str, kind: str, left: str, grad: bool) -> None:
    given = arguments(kind)
    resized(given[name], 0 if left == "nothing" else given[name].untyped_storage().nbytes() - 1)
    given["input"].requires_grad_(grad)
    for f in (fused_ce.cross_entropy, lambda **a: OPS.cross_entropy(*a.values())):
        with pytest.raises(RuntimeError, match=NOT_ALLOCATED):
            f(**given)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("name", ["input", "target", "weight"])
def test_freed_before_backward(name: str, kind: str, reduction: str) -> None:
    """Sharded training frees what it gathered; and gathers it again, or has forgotten to."""
    given = arguments(kind)
    given["input"].requires_grad_()
    loss = fused_ce.cross_entropy(**given, reduction=reduction).sum()
    (expected,) = torch.autograd.grad(loss, given["input"], retain_graph=True)
    freed = given[name].detach()
    values = freed.clone()
    resized(freed, 0)
    with pytest.raises(RuntimeError, match=NOT_ALLOCATED):
        torch.autograd.grad(loss, given["input"], retain_graph=True)
    resized(freed, values.untyped_storage().nbytes())
    freed.data.copy_(values)  # .data: without a new version
    assert torch.equal(torch.autograd.grad(loss, given["input"])[0], expected)


# Of numbers as few as these: the last one of each is needed.
FREED_LAYOUTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "rows": lambda t: t[:800].view(40, 20),
    "transposed": lambda t: t[:800].view(20, 40).t(),
    "steps": lambda t: t.view(40, 40)[:, ::2],
    "offset": lambda t: t[7:807].view(40, 20),
    "planes": lambda t: t.view(8, 20, 10),
    "not_collapsible": lambda t: t.view(4, 20, 5, 4)[..., ::3],
    "expanded": lambda t: t[:20].expand(40, 20),
    "one_row": lambda t: t[:20],
    "overlapping": lambda t: t.as_strided((40, 20), (3, 1)),
}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FREED_LAYOUTS)
def test_the_last_element_decides(name: str, dtype: torch.dtype) -> None:
    """How many bytes a storage must have, of logits and of probabilities."""
    x = FREED_LAYOUTS[name](torch.randn(1600).to(dtype))
    last = x.storage_offset() + sum((n - 1) * s for n, s in zip(x.shape, x.stride(), strict=True))
    needed = (last + 1) * dtype.itemsize
    resized(x, needed)
    rows = () if x.dim() == 1 else x.shape[:1] + x.shape[2:]
    fitting = torch.randn(x.shape).to(dtype)
    calls = [(x, torch.zeros(rows).long()), (x, fitting), (fitting, x)]
    for call in calls:
        fused_ce.cross_entropy(*call)
    resized(x, needed - 1)
    for call in calls:
        with pytest.raises(RuntimeError, match=NOT_ALLOCATED):
            fused_ce.cross_entropy(*call)


def test_nothing_needs_no_memory() -> None:
    x, target = resized(torch.randn(0, 5), 0), resized(torch.zeros(0).long(), 0)
    assert fused_ce.cross_entropy(x, target, reduction="none").shape == (0,)
    assert fused_ce.cross_entropy(x.requires_grad_(), target).isnan()


# ---- What was a fault: the private operators' own arguments --------------------------------------

# Few rows, and more than one thread's.
SHAPES = [(4, 5), (4096, 5), (3, 5, 7)]


def problem(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(shape), torch.randint(shape[1], (shape[0], *shape[2:]))


@pytest.mark.parametrize("dtype", UNKNOWN_DTYPES, ids=str)
def test_dtypes_that_no_loss_has(dtype: torch.dtype) -> None:
    """Which was written by as many bytes as a float has, into numbers of one."""
    for shape in SHAPES:
        x, target = problem(shape)
        for reduction in (0, 1, 2):
            for save in (False, True):
                for device in ("cpu", "meta"):
                    with pytest.raises(REFUSALS, match="not implemented for a loss of"):
                        OPS._forward(
                            *(x.to(device), target.to(device), None, None, None),
                            *(dtype, save, reduction),
                        )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_that_a_loss_has(dtype: torch.dtype) -> None:
    for shape in SHAPES:
        x, target = problem(shape)
        for reduction in (0, 1, 2):
            loss = OPS._forward(x, target, dtype=dtype, reduction=reduction)[0]
            expected = OPS._forward(x, target, reduction=reduction)[0]
            assert loss.dtype == dtype
            torch.testing.assert_close(loss, expected.to(dtype))


NO_GRADIENTS = dict.fromkeys(["grad_loss", "grad_z_loss", "grad_lse", "grad_entropy"])
INDEX_DTYPES = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)

# Each of another shape, dtype or place than what _forward saved for 4 rows, or the loss's gradient.
BACKWARD_MISFITS: dict[str, tuple[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "saved_transposed": ("saved", lambda t: t.t()),
    "saved_transposed_copy": ("saved", lambda t: t.t().contiguous()),
    "saved_flat": ("saved", torch.Tensor.flatten),
    "saved_in_one_row": ("saved", lambda t: t.view(1, -1)),
    "saved_in_three_dimensions": ("saved", lambda t: t.unsqueeze(2)),
    "saved_of_fewer_rows": ("saved", lambda t: t[:, 1:]),
    "saved_of_fewer_numbers": ("saved", lambda t: t[:2]),
    "saved_of_more_rows": ("saved", lambda t: torch.cat([t, t], 1)),
    "saved_nothing": ("saved", lambda t: t[:0]),
    "saved_scalar": ("saved", lambda t: t[0, 0]),
    "saved_freed": ("saved", lambda t: resized(t.clone(), 0)),
    "saved_meta": ("saved", lambda t: t.to("meta")),
    "saved_sparse": ("saved", torch.Tensor.to_sparse),
    **{
        f"saved_{dtype}": ("saved", lambda t, d=dtype: torch.zeros(t.shape).to(d))
        for dtype in (torch.float64, torch.int32, torch.float16, torch.float8_e4m3fn)
    },
    "total_meta": ("total_weight", lambda t: t.to("meta")),
    "total_of_one_dimension": ("total_weight", lambda t: t.view(1)),
    "total_nothing": ("total_weight", lambda t: t.new_empty(0)),
    "total_freed": ("total_weight", lambda t: resized(t.clone(), 0)),
    **{
        f"total_{dtype}": ("total_weight", lambda t, d=dtype: t.to(d))
        for dtype in (torch.float32, torch.int64, torch.float8_e4m3fn, torch.uint8)
    },
    "grad_of_one_dimension": ("grad_loss", lambda t: t.view(1)),
    "grad_of_each_row": ("grad_loss", lambda t: t.expand(4)),
    "grad_nothing": ("grad_loss", lambda t: t.new_empty(0)),
    "grad_meta": ("grad_loss", lambda t: t.to("meta")),
    "grad_freed": ("grad_loss", lambda t: resized(t.clone(), 0)),
    **{
        f"grad_{dtype}": ("grad_loss", lambda t, d=dtype: t.to(d))
        for dtype in (torch.float8_e5m2, torch.uint8, torch.int64, torch.complex64, torch.bool)
    },
}


@pytest.mark.parametrize("name", BACKWARD_MISFITS)
def test_misfits_of_backward(name: str) -> None:
    x, target = problem((4, 5))
    *_, saved, total_weight = OPS._forward(x, target, save=True)
    given = {**NO_GRADIENTS, "grad_loss": torch.ones(())}
    given |= {"self": x, "target": target, "weight": None, "row_weight": None}
    given |= {"saved": saved, "total_weight": total_weight}
    OPS._backward(**given)
    argument, misfit = BACKWARD_MISFITS[name]
    with pytest.raises(REFUSALS):
        OPS._backward(**{**given, argument: misfit(given[argument])})


@pytest.mark.parametrize("reduction", [0, 2])
@pytest.mark.parametrize("argument", ["target", "weight", "saved", "total_weight", "grad_loss"])
def test_no_tensor_of_another_device(argument: str, reduction: int) -> None:
    """Even one that nothing reads: a meta tensor calls the kernel that computes nothing."""
    x, target = problem((4, 5))
    weight = torch.rand(5)
    loss, *_, saved, total_weight = OPS._forward(x, target, weight, save=True, reduction=reduction)
    given = {**NO_GRADIENTS, "grad_loss": torch.ones_like(loss)}
    given |= {"self": x, "target": target, "weight": weight, "row_weight": None}
    given |= {"saved": saved, "total_weight": total_weight, "reduction": reduction}
    OPS._backward(**given)
    with pytest.raises(RuntimeError, match="same device"):
        OPS._backward(**{**given, argument: given[argument].to("meta")})


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5,), (4, 1), (1, 4), (2, 2), (0,)], ids=str)
def test_gradients_of_no_losses_shape(shape: tuple[int, ...]) -> None:
    x, target = problem((4, 5))
    *_, saved, total = OPS._forward(x, target, save=True, reduction=0)
    grads = (torch.ones(shape), None, None, None)
    with pytest.raises(REFUSALS):
        OPS._backward(*grads, x, target, None, None, saved, total, 0)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("value", [-1, 5, 2**31, 2**40, -(2**63), 2**63 - 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_target_changed_to_an_index_out_of_range(
    shape: tuple[int, ...], value: int, reduction: str
) -> None:
    """After forward, unnoticed (.data has versions of its own): no weight is read by that index."""
    x, target = problem(shape)
    x.requires_grad_()
    for options in ({}, {"weight": torch.rand(5)}, {"label_smoothing": 0.1}):
        target.zero_()
        loss = fused_ce.cross_entropy(x, target, reduction=reduction, **options).sum()
        target.data.fill_(value)
        with contextlib.suppress(IndexError):
            (grad,) = torch.autograd.grad(loss, x)
            assert grad.shape == x.shape


# ---- Any misfit ----------------------------------------------------------------------------------

CANARIES = 8  # numbers before and behind each tensor's own


def guarded(t: torch.Tensor) -> torch.Tensor:
    """A copy that lies amid other numbers, which nobody may write: nor it itself."""
    storage = torch.ones(t.numel() + 2 * CANARIES).to(t.dtype)
    return storage[CANARIES : CANARIES + t.numel()].view(t.shape).copy_(t)


def to_dtype(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    dtype = rng.choice(ALL_DTYPES)
    try:
        return t.to(dtype)
    except REFUSALS:  # types that nothing is converted to: nothing may read them, either
        try:
            return torch.empty(t.shape, dtype=dtype)
        except REFUSALS:
            return torch.quantize_per_tensor(t.float(), 0.1, 0, torch.quint8)


def as_many_elements(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    shapes = [(-1,), (-1, 1), (1, -1), (1, *t.shape), (*t.shape, 1), t.shape[::-1]]
    return t.reshape(rng.choice(shapes)) if t.numel() else t.reshape(t.shape[::-1])


def fewer_elements(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    if t.dim() == 0:
        return t
    dim = rng.randrange(t.dim())
    return t.narrow(dim, 0, rng.randint(0, t.size(dim)))


def more_elements(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    return t.repeat(2) if t.dim() == 0 else torch.cat([t, t], rng.randrange(t.dim()))


def one_or_no_element(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    if t.numel() and rng.random() < 0.5:
        return t.flatten()[0]
    return t.new_empty(rng.choice([(0,), (0, 5), (5, 0), (4, 0), (3, 0), (0, 0, 2)]))


def on_meta(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    return t.to("meta")


def freed(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    return resized(t.clone(), 0)


def too_small(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    copy = t.clone()
    nbytes = copy.untyped_storage().nbytes()
    return resized(copy, rng.randrange(nbytes)) if nbytes else copy


def expanded(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    if t.dim() == 0 or t.numel() == 0:
        return t.expand(rng.choice([(1,), (4,), (3, 4)])) if t.dim() == 0 else t
    dim = rng.randrange(t.dim())
    return t.narrow(dim, 0, 1).expand(t.shape)


def strided(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    apart = torch.stack([t, t], rng.randint(0, t.dim()))
    dim = next(d for d in range(apart.dim()) if apart.shape[:d] + apart.shape[d + 1 :] == t.shape)
    return apart.select(dim, 0)


def permuted(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    return t.permute(rng.sample(range(t.dim()), t.dim()))


def odd_numbers(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    t = t.clone()
    values: list[float] = [-1, 4, 5, 255, -100]
    if t.is_floating_point():
        values = [float("nan"), float("inf"), -1e30, 0.0]
    elif t.dtype == torch.int64:
        values += [2**31, 2**40, -(2**63), 2**63 - 1]
    if t.dtype == torch.uint8:
        values = [5, 255]
    if t.numel():
        t.view(-1)[rng.randrange(t.numel())] = rng.choice(values)
    return t


def another_layout(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    if t.is_floating_point() and rng.random() < 0.5:
        return t.float().to_mkldnn()
    return t.to_sparse()


def materialised_later(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    if t.is_floating_point() and rng.random() < 0.5:
        return torch._neg_view(t)
    return torch._efficientzerotensor(t.shape, dtype=t.dtype)


def differentiable(rng: random.Random, t: torch.Tensor) -> torch.Tensor:
    return t.detach().requires_grad_() if t.is_floating_point() else t


MISFITS: list[Misfit] = [
    *(to_dtype, to_dtype, to_dtype, as_many_elements, as_many_elements, fewer_elements),
    *(more_elements, one_or_no_element, on_meta, freed, too_small, expanded, strided, permuted),
    *(odd_numbers, odd_numbers, another_layout, materialised_later, differentiable),
]
# Where the target, the weight or what a mean divides by is differentiable, backward is composed of
# torch's operators, which do not look at the size of a storage.
UNCHECKED_BY_TORCH = {too_small, freed, differentiable}


def draw_options(rng: random.Random) -> Arguments:
    often = rng.random() < 0.8
    return {
        "reduction": rng.choice([0, 1, 2]) if often else rng.choice([-1, 3, 2**40]),
        "ignore_index": rng.choice([-100, -100, 0, 4, 5, 2**40, -(2**63), 2**63 - 1]),
        "label_smoothing": rng.choice([0.0, 0.1, 1.0] if often else [float("nan"), -1.0, 2.0]),
    }


def draw(rng: random.Random, op: str) -> Arguments:
    """Arguments that fit, but perhaps for the options."""
    shape = rng.choice([(4, 5), (4, 5), (3, 4, 2), (5,), (2, 3, 2, 2), (1, 5), (300, 3), (2, 130)])
    rows, classes = ((), shape[0]) if len(shape) == 1 else (shape[:1] + shape[2:], shape[1])
    dtype = rng.choice(DTYPES)
    x = torch.randn(shape).to(dtype)
    if rng.random() < 0.3:
        target = torch.rand(shape).to(dtype)
    else:
        target = torch.randint(min(classes, 128), rows).to(rng.choice([torch.int64, *INDEX_DTYPES]))
    weight = guarded(torch.rand(classes).to(dtype)) if rng.random() < 0.5 else None
    given: Arguments = {"self": guarded(x), "target": guarded(target), "weight": weight}
    options = draw_options(rng)
    if op == "cross_entropy":
        return {**given, **options}
    if op == "_forward":
        loss_dtype = rng.choice([None, None, dtype, dtype, rng.choice(ALL_DTYPES)])
        return {**given, "dtype": loss_dtype, "save": rng.random() < 0.5, **options}
    try:
        loss, *_, saved, total_weight = OPS._forward(x, target, weight, save=True, **options)
    except REFUSALS:  # of the options, or of class indices that are none
        loss, *_, saved, total_weight = OPS._forward(
            x, target, weight, save=True, ignore_index=-100
        )
    grad = {**NO_GRADIENTS, "grad_loss": guarded(torch.randn(loss.shape).to(loss.dtype))}
    kept = {"row_weight": None, "saved": guarded(saved), "total_weight": guarded(total_weight)}
    return {**grad, **given, **kept, **options}


OPTIONAL = {"weight", "dtype"}


def replace(rng: random.Random, given: Arguments) -> dict[str, str]:
    """Puts misfits into the places of one to three tensors: says which."""
    tensors = [name for name, value in given.items() if torch.is_tensor(value)]
    chosen = rng.sample(tensors, min(len(tensors), rng.choice([0, 1, 1, 1, 1, 2, 3])))
    misfits = MISFITS
    done = {}
    for name in chosen:
        if rng.random() < 0.05:
            given[name], done[name] = None, "None"
            continue
        misfit = rng.choice(misfits)
        if misfit in UNCHECKED_BY_TORCH:
            misfits = [m for m in misfits if m not in UNCHECKED_BY_TORCH]
        with contextlib.suppress(*REFUSALS):  # few types have all layouts
            given[name], done[name] = misfit(rng, given[name]), misfit.__name__
    return done


def memory(t: object) -> torch.Tensor | None:
    """A copy of the bytes that the tensor lies among."""
    if not isinstance(t, torch.Tensor) or t.layout != torch.strided or t.device.type != "cpu":
        return None
    if t._is_zerotensor():
        return None
    return torch.empty(0, dtype=torch.uint8).set_(t.untyped_storage()).clone()


def is_there(t: torch.Tensor) -> bool:
    """Whether the storage holds all elements."""
    if t.numel() == 0 or t.device.type == "meta" or t._is_zerotensor():
        return True
    last = t.storage_offset() + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    return (last + 1) * t.element_size() <= t.untyped_storage().nbytes()


def assert_acceptable(given: Arguments) -> None:
    """What was answered is what may be: the checks once more, in other words."""
    x, target, weight = (given[name] for name in ("self", "target", "weight"))
    assert x.dtype in DTYPES and x.dim() >= 1
    classes, rows = (x.size(0), ()) if x.dim() == 1 else (x.size(1), x.shape[:1] + x.shape[2:])
    if target.is_floating_point():
        assert target.shape == x.shape and target.dtype in DTYPES
        assert given["ignore_index"] < 0
    else:
        assert target.shape == rows or (x.dim() == 1 and target.shape == (1,))
        assert target.dtype in INDEX_DTYPES
    assert weight is None or weight.shape == (classes,)
    assert given["reduction"] in (0, 1, 2) and 0 <= given["label_smoothing"] <= 1
    assert given.get("dtype") in (None, *DTYPES)
    tensors = {name: t for name, t in given.items() if isinstance(t, torch.Tensor)}
    for name, t in tensors.items():
        assert t.device == x.device, name
        if name != "total_weight" or given["reduction"] == 1:  # only a mean reads it
            assert t.layout == torch.strided and not t.is_quantized, name
            assert is_there(t), name
    if "saved" in given:
        loss_shape = rows if given["reduction"] == 0 else ()
        grad = given["grad_loss"]  # None: 0
        assert grad is None or (grad.shape == loss_shape and grad.dtype in DTYPES)
        precise = torch.float64 if x.dtype == torch.float64 else torch.float32
        assert given["saved"].dtype == precise
        assert given["saved"].shape == (3, torch.Size(rows).numel())
        if given["reduction"] == 1:
            assert given["total_weight"].shape == ()
            assert given["total_weight"].dtype == torch.float64


def assert_shapes(op: str, given: Arguments, results: tuple[torch.Tensor, ...]) -> None:
    x = given["self"]
    rows = () if x.dim() == 1 else x.shape[:1] + x.shape[2:]
    if op == "_backward":
        (gradient,) = results
        assert gradient.shape == x.shape and gradient.dtype == x.dtype
    else:
        loss, *kept = results
        assert loss.shape == (rows if given["reduction"] == 0 else ()) and loss.dtype in DTYPES
        assert given.get("dtype") in (None, loss.dtype)
        if kept and given["save"]:
            *_, saved, total_weight = kept
            assert saved.shape == (3, torch.Size(rows).numel())
            assert total_weight.shape == (() if given["reduction"] == 1 else (0,))
    assert all(result.device == x.device for result in results)


def plain(t: object) -> object:
    """The same numbers as nothing special."""
    if not isinstance(t, torch.Tensor):
        return t
    return (torch.zeros(t.shape, dtype=t.dtype) if t._is_zerotensor() else t.detach()).clone(
        memory_format=torch.contiguous_format
    )


def assert_same_numbers(op: str, given: Arguments, results: tuple[torch.Tensor, ...]) -> None:
    """However the arguments lay in memory: all was read, and all was written."""
    if given["self"].device.type == "meta":
        return
    names = ("target", "weight", "total_weight")
    constants = (t for t in map(given.get, names) if t is not None)
    if op == "_backward" and any(t.requires_grad for t in constants):
        return  # composed of torch's operators, which do not ask what was saved of other logits
    if "total_weight" in given and given["reduction"] != 1:
        given = {**given, "total_weight": torch.empty(0, dtype=torch.float64)}
    expected = getattr(OPS, op)(**{name: plain(value) for name, value in given.items()})
    if not isinstance(expected, tuple):
        expected = (expected,)
    for result, numbers in zip(results, expected, strict=True):
        if numbers.numel():  # what is saved is so, too, where somebody differentiates
            torch.testing.assert_close(result.detach(), numbers, equal_nan=True, check_stride=False)


def call(rng: random.Random, op: str) -> bool:
    """One call: whether it was answered."""
    given = draw(rng, op)
    done = replace(rng, given)
    before = {name: memory(t) for name, t in given.items()}
    try:
        results = getattr(OPS, op)(**given)
    except REFUSALS:
        results = None
    for name, bytes_before in before.items():
        assert bytes_before is None or torch.equal(memory(given[name]), bytes_before), (name, done)
    if results is None:
        return False
    case = {**done, **{k: v for k, v in given.items() if not torch.is_tensor(v)}}
    results = results if isinstance(results, tuple) else (results,)
    try:
        assert_acceptable(given)
        assert_shapes(op, given, results)
        assert_same_numbers(op, given, results)
    except AssertionError as error:
        raise AssertionError(f"{op} answered {case}: {error}") from error
    return True


# In parts: one that crashes is quick to run again.
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("op", ["cross_entropy", "_forward", "_backward"])
def test_any_misfit(op: str, part: int) -> None:
    rng = random.Random(f"{op} {part}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answers = [call(rng, op) for _ in range(400)]
    assert 0.1 < sum(answers) / len(answers) < 0.9  # neither do all fit, nor none
