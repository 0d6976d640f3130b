# SPDX-License-Identifier: BSD-3-Clause
"""On a GPU: the operator's tests once more with all tensors there, and what only a GPU shows."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator

import fused_ce
import pytest
import torch
import torch.nn.functional as F
from conftest import run_again


def missing() -> str:
    if not torch.cuda.is_available():
        return "skipped: no GPU"
    return "" if fused_ce.build_info()["cuda"] else "skipped: built without CUDA"


pytestmark = [pytest.mark.cuda, pytest.mark.skipif(bool(missing()), reason=missing())]

Problem = tuple[torch.Tensor, torch.Tensor, dict[str, object]]


def problem(name: str) -> Problem:
    """Logits that take each of the kernels' loops, and a problem with every option."""
    shape = {
        "few": (5000, 10),
        "rows": (512, 1000),
        "slices": (8, 50257),
        "planes": (4, 21, 64, 64),
        "options": (512, 1000),
        "probabilities": (512, 1000),
        "stats": (512, 1000),
        "in_place": (512, 1000),
    }[name]
    logits = torch.randn(shape, device="cuda", requires_grad=True)
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device="cuda")
    options: dict[str, object] = {}
    if name == "options":
        weight = torch.rand(shape[1], device="cuda")
        options = {"weight": weight, "label_smoothing": 0.1, "ignore_index": 3}
    elif name == "probabilities":
        target = torch.rand(shape, device="cuda").softmax(1)
    elif name == "stats":
        row_weight = torch.rand(shape[0], device="cuda")
        options = {"z_loss_weight": 1e-3, "softcap": 30.0, "row_weight": row_weight}
        options |= {"return_entropy": True, "return_prediction": True}
    elif name == "in_place":
        options = {"in_place": True}
    return logits, target, options


PROBLEMS = ["few", "rows", "slices", "planes", "options", "probabilities", "stats", "in_place"]
each_problem = pytest.mark.parametrize("name", PROBLEMS)


def loss_and_gradient(problem: Problem) -> tuple[torch.Tensor, torch.Tensor]:
    logits, target, options = problem
    if options.keys() & {"return_entropy", "in_place"}:
        # Of a copy, which may be overwritten.
        stats = fused_ce.cross_entropy_stats(logits * 1, target, **options)
        loss = stats.loss if stats.entropy is None else stats.loss + stats.entropy.mean()
    else:
        loss = fused_ce.cross_entropy(logits, target, **options)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


def assert_same_bits(actual: tuple[torch.Tensor, ...], expected: tuple[torch.Tensor, ...]) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert torch.equal(a, e)


# ---- Streams and graphs --------------------------------------------------------------------------


@contextlib.contextmanager
def busy_stream(call: Callable[[], object]) -> Iterator[torch.cuda.Stream]:
    """A stream that is current, and busy for about a second.

    What is to be called was so on it before: kernels are loaded, memory for its results is at hand.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        torch.cuda.synchronize()
        torch.cuda._sleep(2_000_000_000)  # clocks
        yield stream
    torch.cuda.synchronize()


@each_problem
def test_current_stream(name: str) -> None:
    """On another stream, and so after what comes before on it: here, the logits themselves."""
    logits, target, options = case = problem(name)
    expected = loss_and_gradient(case)
    late = torch.zeros_like(logits)
    with busy_stream(lambda: loss_and_gradient(case)):
        late.copy_(logits.detach())
        actual = loss_and_gradient((late.requires_grad_(), target, options))
    assert_same_bits(actual, expected)


def assert_nobody_waits(call: Callable[[], object]) -> None:
    mode = torch.cuda.get_sync_debug_mode()
    with busy_stream(call) as stream:
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        assert not stream.query()


@each_problem
def test_nobody_waits_for_the_gpu(name: str) -> None:
    case = problem(name)
    assert_nobody_waits(lambda: loss_and_gradient(case))


def test_nobody_waits_for_a_linear_layer() -> None:
    x, weight = (torch.randn(n, 64, device="cuda", requires_grad=True) for n in (512, 1000))
    target = torch.randint(1000, (512,), device="cuda")
    assert_nobody_waits(lambda: fused_ce.linear_cross_entropy(x, weight, target).backward())


@each_problem
def test_graph(name: str) -> None:
    """Captured once, replayed on other values in the same memory."""
    logits, target, _ = case = problem(name)
    warm_up = torch.cuda.Stream()
    warm_up.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(warm_up):
        loss_and_gradient(case)
    torch.cuda.current_stream().wait_stream(warm_up)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = loss_and_gradient(case)
    for _ in range(2):
        with torch.no_grad():
            logits.copy_(torch.randn_like(logits))
        target.copy_(target.flip(0))
        graph.replay()
        assert_same_bits(captured, loss_and_gradient(case))


# ---- Same bits, and memory -----------------------------------------------------------------------


@each_problem
def test_same_bits_each_time(name: str) -> None:
    case = problem(name)
    expected = loss_and_gradient(case)
    for _ in range(5):
        assert_same_bits(loss_and_gradient(case), expected)


@each_problem
def test_deterministic_algorithms(name: str) -> None:
    """Allowed, and the same: torch then fills new memory with NaN, of which nothing is read."""
    case = problem(name)
    expected = loss_and_gradient(case)
    torch.use_deterministic_algorithms(True)
    try:
        actual = loss_and_gradient(case)
    finally:
        torch.use_deterministic_algorithms(False)
    assert_same_bits(actual, expected)


def peak_growth(call: Callable[[], object]) -> int:
    """Bytes that are asked of torch's allocator at most, above those in use before the call."""
    torch.cuda.reset_peak_memory_stats()
    # memory_allocated() counts blocks, which may be a megabyte larger.
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    call()
    return torch.cuda.memory_stats()["requested_bytes.all.peak"] - before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(65536, 128), (4096, 4096), (64, 200000), (8, 32, 256, 256)])
def test_memory(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape, device="cuda").to(dtype).requires_grad_()
    target = torch.zeros((shape[0], *shape[2:]), dtype=torch.long, device="cuda")
    # A few numbers a row, and sums of at most 16384 blocks or slices.
    a_few_numbers = 16 * target.numel() + (1 << 20)
    assert a_few_numbers < x.nbytes / 3
    assert peak_growth(lambda: fused_ce.cross_entropy(x, target)) <= a_few_numbers
    both = peak_growth(lambda: loss_and_gradient((x, target, {})))
    assert x.nbytes <= both <= x.nbytes + a_few_numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_memory_in_place(dtype: torch.dtype) -> None:
    x = torch.randn(4096, 4096, device="cuda").to(dtype).requires_grad_()
    logits, target = x * 1, torch.zeros(4096, dtype=torch.long, device="cuda")

    def both() -> None:
        loss = fused_ce.cross_entropy_stats(logits, target, in_place=True).loss
        (grad,) = torch.autograd.grad(loss, logits)
        assert grad.data_ptr() == logits.data_ptr()

    assert peak_growth(both) <= 16 * target.numel() + (1 << 20)


@pytest.mark.parametrize(
    "shape", [(2**28 + 8, 8), (2**16 + 8, 2**15), (17, 2**27), (2, 2**11, 2**19 + 8)], ids=str
)
def test_more_than_two_to_the_31_logits(shape: tuple[int, ...]) -> None:
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("skipped: needs 20 GiB of free GPU memory")
    logits = torch.randn(shape, dtype=torch.bfloat16, device="cuda").requires_grad_()
    assert logits.numel() > 2**31
    target = torch.randint(shape[1], (shape[0], *shape[2:]), device="cuda")
    loss = fused_ce.cross_entropy(logits, target, reduction="none")
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    # The last rows end beyond 2^31 logits.
    last = (slice(-1, None), slice(None), slice(-8, None))[: len(shape)]
    x = logits.detach()[last].double().requires_grad_()
    y = target[last[:1] + last[2:]]
    expected = F.cross_entropy(x, y, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    rounding = {"rtol": 2**-8, "atol": 0}  # to bfloat16
    torch.testing.assert_close(loss[last[:1] + last[2:]].double(), expected, **rounding)
    torch.testing.assert_close(grad[last].double(), gradient, **rounding)


# ---- Refusals, and a second device --------------------------------------------------------------

OUT_OF_RANGE = """
import torch, fused_ce
logits = torch.randn({shape}, device="cuda")
target = torch.zeros(logits.size(0), *logits.shape[2:], dtype=torch.long, device="cuda")
target.view(-1)[-1] = {bad}
fused_ce.cross_entropy(logits, target)
torch.cuda.synchronize()
"""


@pytest.mark.parametrize(
    ("shape", "bad"),
    [((40, 7), -1), ((40, 300), 2**40), ((2, 20000), 20000), ((2, 7, 300), -1)],
    ids=str,
)
def test_target_out_of_range(shape: tuple[int, ...], bad: int) -> None:
    """A device-side assertion, which ends all use of the GPU in its process."""
    code = OUT_OF_RANGE.format(shape=shape, bad=bad)
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    assert "fused_ce: Target is out of bounds" in result.stderr + result.stdout
    assert "device-side assert triggered" in result.stderr


def test_tensors_of_two_devices() -> None:
    logits, target, _ = problem("rows")
    for arguments in (
        (logits, target.cpu()),
        (logits.detach().cpu(), target),
        (logits, target, torch.ones(1000)),
    ):
        with pytest.raises(RuntimeError, match="on the same device"):
            fused_ce.cross_entropy(*arguments)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="skipped: one GPU")
def test_second_device() -> None:
    """Kernels go to the tensors' device, whichever is current."""
    first = problem("options")
    second = tuple(t.to("cuda:1") for t in first[:2])
    options = {**first[2], "weight": first[2]["weight"].to("cuda:1")}
    with torch.cuda.device(0):
        actual = loss_and_gradient((second[0].detach().requires_grad_(), second[1], options))
    assert all(t.device.index == 1 for t in actual)
    torch.testing.assert_close(
        [t.cpu() for t in actual], [t.cpu() for t in loss_and_gradient(first)]
    )


# ---- The operator's tests ------------------------------------------------------------------------

SELECTION = {
    "parity": ["test_parity.py"],
    "edges": ["test_edges.py"],
    "errors": ["test_errors.py"],
    "autograd": [
        "test_autograd.py",
        "-k",
        "not gradcheck or indices-all- or probabilities-weight-",
    ],
    "stats": ["test_stats.py", "-k", "not documented"],
    "stats_autograd": ["test_stats_autograd.py", "-k", "not gradcheck"],
    "stats_in_place": ["test_stats_in_place.py", "-k", "not autocast and not compiled"],
    "linear": ["test_linear.py"],
    "opinfo": ["test_opinfo.py"],
    "properties": ["test_properties.py"],
    "transforms": ["test_transforms.py", "-k", "not aot_inductor"],
}


@pytest.mark.parametrize("name", SELECTION)
def test_on_the_gpu(name: str) -> None:
    run_again(*SELECTION[name], FUSED_CE_DEVICE="cuda")
