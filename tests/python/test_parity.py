"""Loss and gradient of every option, layout and dtype against the formula in float64."""

from __future__ import annotations

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import DTYPES, LAYOUTS, index_target, make_logits

OPTIONS = {
    "plain": {},
    "ignore": {"ignore_index": 1},
    "weight": {"weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "all": {"weight": True, "label_smoothing": 0.3, "ignore_index": 0},
}
CLASSES = [1, 3, 7, 8, 9, 15, 16, 18, 31, 33, 63, 64, 65, 127, 129, 1000, 1023, 1024, 1025, 5000]


def dense_target(
    target: torch.Tensor,
    classes: int,
    dim: int,
    *,
    weight: torch.Tensor | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The mass that each class has in the loss, in float64, and what a mean divides by.

    loss = -sum_c mass[c] * log_softmax(logits)[c], so d loss / d logits = mass.sum() * p - mass.
    """
    shape = [1] * (target.dim() if target.is_floating_point() else target.dim() + 1)
    shape[dim] = classes
    w = torch.ones(shape).double() if weight is None else weight.double().view(shape)
    if target.is_floating_point():
        q = target.double()
        rows = q.numel() // classes
        smooth = w * (q * (1 - label_smoothing) + label_smoothing / classes)
        return smooth, torch.tensor(float(rows), dtype=torch.float64)
    target = target.long()
    kept = target != ignore_index
    one_hot = F.one_hot(torch.where(kept, target, 0), classes).movedim(-1, dim).double()
    smooth = w * (one_hot * (1 - label_smoothing) + label_smoothing / classes)
    return smooth * kept.unsqueeze(dim), (w * one_hot * kept.unsqueeze(dim)).sum()


def check(logits: torch.Tensor, target: torch.Tensor, reduction: str = "mean", **options) -> None:
    """Compare value and gradient with float64, from the same (already rounded) inputs.

    A result is a sum of terms. Each term may be wrong by a few units in the last place of the type
    that the kernels work in (a product or two, an exp of 1 ulp, its share of the sum's roundings),
    and by as much in the float64 reference, where exp(log p) magnifies the rounding of log p, and
    where the roundings of a sum over the classes walk at random. The sum is then rounded once, to
    the type of the result: half a unit.
    """
    dim = min(1, logits.dim() - 1)
    mass, total = dense_target(target, logits.size(dim), dim, **options)
    log_p = logits.double().log_softmax(dim)
    x = logits.detach().requires_grad_()
    loss = fused_ce.cross_entropy(x, target, reduction=reduction, **options)
    theirs = F.cross_entropy(logits, target, reduction=reduction, **options)
    assert loss.dtype == theirs.dtype
    assert loss.shape == theirs.shape
    if reduction == "mean" and total == 0:
        assert torch.isnan(loss)
        assert torch.isnan(theirs)
        return

    work = torch.finfo(torch.promote_types(logits.dtype, torch.float32)).eps
    reference = torch.finfo(torch.float64).eps * (4 + logits.size(dim) ** 0.5 / 2)
    factor = 1 / total if reduction == "mean" else torch.ones_like(total)

    def close(actual: torch.Tensor, want: torch.Tensor, terms: torch.Tensor, ulps: float) -> None:
        limits = torch.finfo(actual.dtype)
        fits = want.abs() < limits.max
        bound = limits.eps / 2 * want.abs() + ulps * terms + limits.smallest_normal * limits.eps
        assert (((actual.double() - want).abs() <= bound) | ~fits).all()
        assert torch.isinf(actual[~fits]).all()

    rows, terms = -(mass * log_p).sum(dim), (mass * (log_p.abs() + 1)).sum(dim)
    if reduction != "none":
        rows, terms = rows.sum(), terms.sum()
    close(loss, rows * factor, terms * factor, 4 * work + reference)

    g = torch.randn(loss.shape).to(loss.dtype)
    (grad,) = torch.autograd.grad(loss, x, g)
    assert grad.dtype == logits.dtype
    assert grad.shape == logits.shape
    scale = factor * (g.double().unsqueeze(dim) if reduction == "none" else g.double())
    pull = mass.sum(dim, keepdim=True) * log_p.exp()
    terms = scale.abs() * (pull + mass)
    close(grad, scale * (pull - mass), terms, 4 * work + reference * log_p.abs().max().item())


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", ["int64", "uint8", "probabilities"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_layouts(dtype: torch.dtype, layout: str, kind: str, option: str, reduction: str) -> None:
    for classes in (2, 10, 17, 300):
        logits = make_logits(layout, classes, dtype)
        options = dict(OPTIONS[option])
        if "weight" in options:
            options["weight"] = torch.rand(classes).to(dtype) + 0.5
        if kind == "probabilities":
            options.pop("ignore_index", None)
            target = torch.rand(logits.shape).to(dtype)
        else:
            target = index_target(logits, getattr(torch, kind))
            if kind == "uint8" and (logits.dim() > 2 or "label_smoothing" in options):
                target = target.long()  # torch refuses Byte there: no dtype and shape to compare
        check(logits, target, reduction, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_every_tail(classes: int, dtype: torch.dtype) -> None:
    for logits in (3 * torch.randn(5, classes), 3 * torch.randn(2, classes, 9)):
        x = logits.to(dtype)
        weight = torch.rand(classes).to(dtype) + 0.5
        check(x, index_target(x), "none")
        check(x, index_target(x), "none", label_smoothing=0.2, weight=weight)
        check(x, torch.rand(x.shape).to(dtype), "none", label_smoothing=0.2)


@pytest.mark.parametrize("shape", [(6, 4, 9), (7, 30)])
def test_byte_targets_where_torch_refuses_them(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.rand(shape[1])
    target = index_target(x)
    for options in ({}, {"weight": weight, "label_smoothing": 0.1}):
        ours = fused_ce.cross_entropy(x, target.byte(), **options)
        assert torch.equal(ours, fused_ce.cross_entropy(x, target, **options))


@pytest.mark.parametrize("target_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_probabilities_of_another_dtype(dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    for shape in ((9, 40), (2, 12, 19)):
        check(torch.randn(shape).to(dtype), torch.rand(shape).to(target_dtype), "none")


@pytest.mark.parametrize("shape", [(1, 4), (1, 40), (1, 4, 20)], ids=str)
def test_confident_rows_keep_their_digits(shape: tuple[int, ...]) -> None:
    """torch subtracts two large numbers there, and has 0 beyond a gap of 17."""
    for gap in range(5, 90):
        logits = torch.randn(shape)
        logits[:, 0] = logits.max() + gap
        target = torch.zeros((1, *shape[2:]), dtype=torch.long)
        others = logits[:, 1:].double() - logits[:, :1].double()
        expected = torch.special.logsumexp(others, 1).exp().log1p()
        ours = fused_ce.cross_entropy(logits, target, reduction="none")
        float32 = torch.finfo(torch.float32)
        bound = 4 * float32.eps * expected + float32.smallest_normal * float32.eps
        assert ((ours - expected).abs() <= bound).all()
