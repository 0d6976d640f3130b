# SPDX-License-Identifier: BSD-3-Clause
"""Loss and gradient of every option, layout and dtype against the formula in float64."""

from __future__ import annotations

import fused_ce
import pytest
import torch
from conftest import DTYPES, LAYOUTS, index_target, make_logits
from formula import check

OPTIONS = {
    "plain": {},
    "ignore": {"ignore_index": 1},
    "weight": {"weight": True},
    "smoothing": {"label_smoothing": 0.1},
    "all": {"weight": True, "label_smoothing": 0.3, "ignore_index": 0},
}
CLASSES = [1, 3, 7, 8, 9, 15, 16, 18, 31, 33, 63, 64, 65, 127, 129, 1000, 1023, 1024, 1025, 5000]


# What has every loop of the CUDA kernels.
SIMT_LAYOUTS = [
    (torch.float32, "rows"),
    (torch.bfloat16, "planes"),
    (torch.bfloat16, "planes_sliced_classes"),
    (torch.bfloat16, "transposed"),
    (torch.float16, "transposed"),
    (torch.float64, "narrow_planes"),
    (torch.float32, "not_collapsible"),
]


@pytest.mark.simt(when=lambda dtype, layout, **_: (dtype, layout) in SIMT_LAYOUTS)
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


@pytest.mark.simt(when=lambda classes, **_: classes in (18, 33, 129, 5000))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_every_tail(classes: int, dtype: torch.dtype) -> None:
    for logits in (3 * torch.randn(5, classes), 3 * torch.randn(2, classes, 9)):
        x = logits.to(dtype)
        weight = torch.rand(classes).to(dtype) + 0.5
        check(x, index_target(x), "none")
        check(x, index_target(x), "none", label_smoothing=0.2, weight=weight)
        check(x, torch.rand(x.shape).to(dtype), "none", label_smoothing=0.2)


@pytest.mark.simt
@pytest.mark.parametrize("shape", [(6, 4, 9), (7, 30)])
def test_byte_targets_where_torch_refuses_them(shape: tuple[int, ...]) -> None:
    x, weight = torch.randn(shape), torch.rand(shape[1])
    target = index_target(x)
    for options in ({}, {"weight": weight, "label_smoothing": 0.1}):
        ours = fused_ce.cross_entropy(x, target.byte(), **options)
        assert torch.equal(ours, fused_ce.cross_entropy(x, target, **options))


@pytest.mark.parametrize("shape", [(31, 8201), (2, 21, 1000)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_gradients(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    """Gradients from 48 MB on go past the caches: the bits are those of a small one."""
    small = torch.randn(shape).to(dtype)
    times = 1 + (52 << 20) // (small.numel() * small.element_size())
    logits = small.repeat(times, *[1] * (len(shape) - 1)).requires_grad_()
    small.requires_grad_()
    target = index_target(small)
    target[0] = 7
    options = {"ignore_index": 7, "label_smoothing": 0.1, "reduction": "sum"}
    large_target = target.repeat(times, *[1] * (target.dim() - 1))
    fused_ce.cross_entropy(logits, large_target, **options).backward()
    fused_ce.cross_entropy(small, target, **options).backward()
    assert (logits.grad.unflatten(0, (times, shape[0])) == small.grad).all()


@pytest.mark.simt
@pytest.mark.parametrize("target_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_probabilities_of_another_dtype(dtype: torch.dtype, target_dtype: torch.dtype) -> None:
    for shape in ((9, 40), (2, 12, 19)):
        check(torch.randn(shape).to(dtype), torch.rand(shape).to(target_dtype), "none")


@pytest.mark.simt
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
