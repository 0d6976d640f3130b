# SPDX-License-Identifier: BSD-3-Clause
"""Sizes that are known only when the compiled program runs: masks, nonzero, `.item()`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fused_ce
import pytest
import torch
import torch._dynamo.testing
import torch.nn.functional as F
from torch._dynamo.decorators import mark_unbacked

Loss = Callable[..., torch.Tensor]
Use = Callable[..., torch.Tensor]

CLASSES = 5


@pytest.fixture(autouse=True)
def _capture() -> Iterator[None]:
    torch._dynamo.reset()
    with torch._dynamo.config.patch(
        capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True
    ):
        yield


def mask(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    return f(x[t != -100], t[t != -100], **options)


def two_masks(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    """Two sizes, which a trace cannot know to be the same."""
    return f(x[t != -100], t[t >= 0], **options)


def nonzero(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    rows = (t != -100).nonzero().squeeze(1)
    return f(x.index_select(0, rows), t.index_select(0, rows), **options)


def item(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    n = (t != -100).sum().item()
    torch._check(n >= 0)
    torch._check(n <= x.size(0))
    return f(x[:n], t[:n], **options)


def views(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    kept = t != -100
    return f(x[kept].view(-1, x.size(1)), t[kept].reshape(-1), **options)


def classes_first(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    """Whose gradient has other strides than contiguous logits."""
    kept = t != -100
    return f(x[kept].t().contiguous().t(), t[kept], **options)


def some_classes(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    """Here the number of classes is unknown, and the rows lie apart."""
    n = (t != -100).sum().item()
    torch._check(n >= 1)
    torch._check(n <= x.size(1))
    return f(x[:, :n], t.clamp(0, 0), **options)


def ignored(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    """An ignore_index that is read from a tensor."""
    return f(x, t.clamp(0), ignore_index=t.amax().item(), **options)


def planes(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    kept = t != -100
    repeated = x[kept].view(-1, CLASSES, 1).expand(-1, -1, 3)
    return f(repeated, t[kept].view(-1, 1).expand(-1, 3), **options)


def one_image(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    """A sequence of unknown length."""
    kept = t != -100
    return f(x[kept].unsqueeze(0).transpose(1, 2), t[kept].unsqueeze(0), **options)


def probabilities(f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object) -> torch.Tensor:
    kept = t != -100
    return f(x[kept], F.one_hot(t.clamp(0), CLASSES).to(x.dtype)[kept], **options)


def other_probabilities(
    f: Loss, x: torch.Tensor, t: torch.Tensor, **options: object
) -> torch.Tensor:
    """Two sizes, where only the dtype tells that these are not class indices."""
    return f(x[t != -100], F.one_hot(t.clamp(0), CLASSES).to(x.dtype)[t >= 0], **options)


USES: dict[str, Use] = {
    use.__name__: use
    for use in (
        *(mask, two_masks, nonzero, item, views, classes_first, some_classes, ignored),
        *(planes, one_image, probabilities, other_probabilities),
    )
}

# What torch's own cannot do: its checks decide on the number of elements. Ours need none.
BEYOND_TORCH = {
    *((name, reduction) for name in ("planes", "one_image") for reduction in ("none", "mean")),
    ("probabilities", "mean"),
    *(("other_probabilities", reduction) for reduction in ("none", "mean")),
}

OPTIONS: dict[str, dict[str, object]] = {
    "plain": {"reduction": "mean"},
    "rows": {"reduction": "none"},
    "options": {
        "reduction": "mean",
        "weight": torch.linspace(0.5, 1.5, CLASSES, device="cpu"),
        "label_smoothing": 0.1,
    },
    "sum": {"reduction": "sum", "weight": torch.linspace(0.5, 1.5, CLASSES, device="cpu")},
}


def batch(rows: int, kept: int, classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.full((rows,), -100)
    target[torch.randperm(rows)[:kept]] = torch.randint(CLASSES, (kept,))
    return torch.randn(rows, classes), target


def options_of(name: str, use: Use) -> dict[str, object]:
    return {
        k: v.to(torch.empty(0).device) if torch.is_tensor(v) else v
        for k, v in OPTIONS[name].items()
        if not (use is some_classes and k == "weight")
    }


def assert_as_eager(
    compiled: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    use: Use,
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    **options: object,
) -> None:
    """Loss and gradient of ours, compiled, are those of torch's, eager."""
    for x, t in batches:
        results = []
        for f in (compiled, lambda a, b: use(F.cross_entropy, a, b, **options)):
            leaf = x.clone().requires_grad_()
            loss = f(leaf, t)
            (grad,) = torch.autograd.grad(loss.sum(), leaf)
            results.append((loss.detach(), grad))
        torch.testing.assert_close(*results, equal_nan=True)


class Program(torch.nn.Module):
    def __init__(self, f: Loss, use: Use, **options: object) -> None:
        super().__init__()
        self.f, self.use, self.options = f, use, options

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.use(self.f, x, t, **self.options)


def batches_of(use: Use) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As many rows, of which others are kept: none, one, or all, too."""
    classes = 12 if use is some_classes else CLASSES
    return [
        batch(9, kept, classes) for kept in (6, 9, 1, *(() if use is some_classes else (0,)), 7)
    ]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", USES)
def test_export(name: str, options: str) -> None:
    use = USES[name]
    chosen = options_of(options, use)
    batches = batches_of(use)
    program = torch.export.export(Program(fused_ce.cross_entropy, use, **chosen), batches[0])
    module = program.module()
    for x, t in batches:
        torch.testing.assert_close(
            module(x, t), use(F.cross_entropy, x, t, **chosen), equal_nan=True
        )


@pytest.mark.parametrize("options", ["plain", "rows", "options"])
@pytest.mark.parametrize("name", USES)
def test_compile(name: str, options: str) -> None:
    use = USES[name]
    chosen = options_of(options, use)
    compiled = torch.compile(
        lambda x, t: use(fused_ce.cross_entropy, x, t, **chosen),
        backend="aot_eager",
        fullgraph=True,
    )
    assert_as_eager(compiled, use, batches_of(use), **chosen)


def sorted_difference(all_of: dict[str, Use], but: set[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(n, r) for n in all_of for r in ("none", "mean") if (n, r) not in but]


@pytest.mark.skipif(
    torch.__version__ < "2.13", reason="the list is of 2.13: older ones export less of their own"
)
@pytest.mark.parametrize(("name", "reduction"), sorted_difference(USES, BEYOND_TORCH))
def test_torchs_own_can(name: str, reduction: str) -> None:
    """The list of what is beyond torch is right: of all else the tests above demand it of ours."""
    program = Program(F.cross_entropy, USES[name], reduction=reduction)
    torch.export.export(program, batches_of(USES[name])[0])


@pytest.mark.parametrize("name", ["views", "classes_first", "probabilities"])
def test_inductor(name: str) -> None:
    """Which asserts the strides of every result, of sizes that are unknown here."""
    use = USES[name]
    compiled = torch.compile(lambda x, t: use(fused_ce.cross_entropy, 2 * x, t), fullgraph=True)

    def eager(f: Loss, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return use(f, 2 * x, t)

    assert_as_eager(compiled, eager, batches_of(use))


# ---- Arguments whose sizes no trace may look at --------------------------------------------------

# Of logits of this many dimensions: those without a size.
UNKNOWN = {
    "rows": (2, [0]),
    "rows_and_classes": (2, [0, 1]),
    "batch": (3, [0]),
    "batch_and_length": (3, [0, 2]),
    "length": (3, [2]),
    "image": (4, [0, 2, 3]),
}


def unknown(
    sizes: tuple[int, ...], dims: list[int], kind: str
) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(sizes)
    if kind == "indices":
        target = torch.randint(sizes[1], (sizes[0], *sizes[2:]))
    else:
        target = torch.rand(sizes)
    for d in dims:
        mark_unbacked(x, d)
        if kind != "indices":
            mark_unbacked(target, d)
        elif d != 1:
            mark_unbacked(target, max(0, d - 1))
    return x, target


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", UNKNOWN)
def test_marked_unbacked(name: str, options: str, kind: str) -> None:
    dims, marked = UNKNOWN[name]
    chosen = options_of(options, mask)
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x, t: fused_ce.cross_entropy(2 * x, t, **chosen), backend=counter, fullgraph=True
    )
    for n in (4, 3, 7):
        sizes = tuple(CLASSES if d == 1 else n + d if d in marked else 6 for d in range(dims))
        x, t = unknown(sizes, marked, kind)
        loss = compiled(x.requires_grad_(), t)
        expected = F.cross_entropy(2 * x, t, **chosen)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(*(torch.autograd.grad(e.sum(), x) for e in (loss, expected)))
    assert counter.frame_count == 1


# ---- Sizes that do not fit when the program runs -------------------------------------------------


@pytest.mark.parametrize("kind", ["two_masks", "other_probabilities"])
@pytest.mark.parametrize("how", ["export", "aot_eager", "inductor"])
def test_sizes_that_differ_at_run_time(how: str, kind: str) -> None:
    use = USES[kind]
    x, t = batch(9, 6)
    program: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    if how == "export":
        program = torch.export.export(Program(fused_ce.cross_entropy, use), (x, t)).module()
    else:
        program = torch.compile(
            lambda a, b: use(fused_ce.cross_entropy, a, b), backend=how, fullgraph=True
        )
    torch.testing.assert_close(program(x, t), use(F.cross_entropy, x, t))
    leaf = x.clone().requires_grad_()
    for other in (-1, -100):  # a row that one mask keeps and the other does not; then none again
        t[0] = other
        if other == -100:
            torch.testing.assert_close(program(leaf, t), use(F.cross_entropy, x, t))
        else:
            with pytest.raises((RuntimeError, ValueError, AssertionError)):
                program(leaf, t)


# Of logits and targets; each was fitting when the program was traced.
MISMATCHES = [
    *((((n, CLASSES), (m,)) for n, m in ((4, 6), (6, 4), (1, 4), (4, 1), (4, 0), (0, 4)))),
    *(((2, CLASSES, n), (2, m)) for n, m in ((4, 6), (6, 4), (1, 4), (4, 1), (0, 4))),
    *(((n, CLASSES, 4), (m, 4)) for n, m in ((2, 3), (3, 2), (1, 2))),
    *(((n, CLASSES), (m, CLASSES)) for n, m in ((4, 6), (6, 4), (1, 4), (4, 1))),
    *(((2, CLASSES, n), (2, CLASSES, m)) for n, m in ((4, 6), (6, 4), (1, 4))),
]


@pytest.mark.parametrize("sizes", MISMATCHES, ids=str)
def test_marked_sizes_that_differ_at_run_time(
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
) -> None:
    compiled = torch.compile(fused_ce.cross_entropy, backend="aot_eager", fullgraph=True)
    logits, target = sizes
    dims = [0, *range(2, len(logits))]
    kind = "probabilities" if len(logits) == len(target) else "indices"
    x, t = unknown((3, CLASSES, *[8] * (len(logits) - 2)), dims, kind)
    torch.testing.assert_close(compiled(x, t), F.cross_entropy(x, t))
    x, t = torch.randn(logits), torch.zeros(target, dtype=t.dtype)
    for d in dims:
        mark_unbacked(x, d)
        mark_unbacked(t, d if kind == "probabilities" else max(0, d - 1))
    with pytest.raises((RuntimeError, ValueError, AssertionError)):
        compiled(x, t)
