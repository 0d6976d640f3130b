# SPDX-License-Identifier: BSD-3-Clause
"""The memory of large gradients, which is kept for the next one."""

from __future__ import annotations

import copy
import io
import itertools
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fused_ce
import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kept on Linux only")

MB = 1 << 20
CLASSES = 1 << 16
ROW = 4 * CLASSES  # bytes: a quarter of a MB


def logits(megabytes: int) -> torch.Tensor:
    return torch.randn(megabytes * MB // ROW, CLASSES, requires_grad=True)


def gradient(x: torch.Tensor, label: int = 0) -> torch.Tensor:
    target = torch.full((x.size(0), *x.shape[2:]), label)
    return torch.autograd.grad(fused_ce.cross_entropy(x, target), x)[0]


def check(grad: torch.Tensor, x: torch.Tensor, label: int = 0) -> None:
    target = torch.full((x.size(0), *x.shape[2:]), label)
    expected = torch.autograd.grad(F.cross_entropy(x, target), x)[0]
    torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-9)


def run(code: str, **environment: str) -> None:
    """In a process of its own, with the functions above."""
    start = (
        "import os, resource, sys, threading, torch, fused_ce\n"
        "from test_memory import MB, check, gradient, logits, memory\n"
        "torch.set_num_threads(1)\n"
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    result = subprocess.run(
        [sys.executable, "-c", start + code],
        env={**os.environ, "PYTHONPATH": paths, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def memory(name: str) -> int:
    """Bytes of this process, as Linux counts them: VmRSS, VmHWM (the peak), VmSize, LazyFree..."""
    text = Path("/proc/self/status").read_text() + Path("/proc/self/smaps_rollup").read_text()
    return next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith(name))


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    fused_ce.empty_cache()
    yield
    fused_ce.empty_cache()


LAYOUTS = {
    "rows": lambda: torch.randn(40, 50000),
    "one_row": lambda: torch.randn(2_000_000),
    "transposed": lambda: torch.randn(50000, 40).t(),
    "planes": lambda: torch.randn(8, 50, 64, 64),
    "channels_last": lambda: torch.randn(8, 50, 64, 64).to(memory_format=torch.channels_last),
    "sliced": lambda: torch.randn(40, 100000)[:, ::2],
    "sliced_transposed": lambda: torch.randn(100000, 40)[::2].t(),
    "expanded": lambda: torch.randn(1, 50000).expand(40, 50000),
    "not_collapsible": lambda: torch.randn(8, 50, 64, 64).mT,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_next_gradient_lies_there(layout: str) -> None:
    x = LAYOUTS[layout]().requires_grad_()
    target = torch.zeros(x.shape[:0] if x.dim() == 1 else (len(x), *x.shape[2:])).long()
    expected = torch.autograd.grad(F.cross_entropy(x, target), x)[0]
    like = torch.empty_like(x)
    contiguous = layout in ("not_collapsible", "sliced_transposed")
    strides = like.contiguous().stride() if contiguous else like.stride()
    addresses = set()
    for _ in range(3):
        grad = torch.autograd.grad(fused_ce.cross_entropy(x, target), x)[0]
        torch.testing.assert_close(grad, expected, rtol=1e-5, atol=1e-9)
        assert fused_ce.kept_bytes() == 0
        assert grad.stride() == strides and grad.untyped_storage().nbytes() == like.nbytes
        addresses.add(grad.data_ptr())
        del grad
        assert 0 <= fused_ce.kept_bytes() - like.nbytes < os.sysconf("SC_PAGE_SIZE")
    assert len(addresses) == 1


def test_small_gradients_are_not_kept() -> None:
    x = torch.randn(1, MB - 1, requires_grad=True)
    gradient(x)
    assert fused_ce.kept_bytes() == 0
    gradient(torch.randn(1, MB, requires_grad=True))
    assert fused_ce.kept_bytes() == 4 * MB


def test_empty_cache() -> None:
    x = logits(64)
    gradient(x)
    before = memory("VmRSS"), memory("VmSize")
    fused_ce.empty_cache()
    assert fused_ce.kept_bytes() == 0
    assert before[0] - memory("VmRSS") > 63 * MB and before[1] - memory("VmSize") > 63 * MB
    fused_ce.empty_cache()
    check(gradient(x), x)


def test_no_address_space_leaks() -> None:
    x = logits(8)

    def steps() -> None:
        for _ in range(100):
            gradient(x)
            gradient(x[:17])
            fused_ce.empty_cache()

    growths = []
    for _ in range(4):  # a thread that begins meanwhile maps its stack
        before = memory("VmSize")
        steps()
        growths.append(memory("VmSize") - before)
    assert min(growths[1:]) < 256 << 10  # less than a page a step


def test_the_system_may_have_idle_pages() -> None:
    x = logits(64)
    grad = gradient(x)
    before = memory("LazyFree")
    del grad
    assert memory("LazyFree") - before >= 64 * MB
    grad = gradient(x)
    assert memory("LazyFree") - before < MB  # written again
    check(grad, x)


@pytest.mark.parametrize("setting", ["0", "1"])
def test_environment(setting: str) -> None:
    run(
        "x = logits(8)\n"
        "for _ in range(3): check(gradient(x), x)\n"
        f"assert fused_ce.kept_bytes() == {setting} * 8 * MB\n"
        f"os.environ['FUSED_CE_KEEP_MEMORY'] = '{1 - int(setting)}'\n"  # read once
        "gradient(x)\n"
        f"assert fused_ce.kept_bytes() == {setting} * 8 * MB\n",
        FUSED_CE_KEEP_MEMORY=setting,
    )


def test_smaller_gradients_lie_there_too() -> None:
    """A last batch that is smaller: neither it nor the next large one needs fresh pages."""
    x = logits(64)
    address = gradient(x).data_ptr()
    for rows in (64, 100, 256, 101, 256):
        grad = gradient(x[:rows])
        assert grad.data_ptr() == address and fused_ce.kept_bytes() == 0
        check(grad, x[:rows])
        del grad
        assert fused_ce.kept_bytes() == 64 * MB


def test_a_small_gradient_holds_no_large_block() -> None:
    x, small = logits(64), logits(8)
    address = gradient(x).data_ptr()
    for _ in range(3):
        grad = gradient(small)
        check(grad, small)
        assert grad.data_ptr() != address and fused_ce.kept_bytes() == 64 * MB
        del grad
        assert fused_ce.kept_bytes() == 64 * MB
        assert gradient(x).data_ptr() == address


def test_a_block_that_is_too_large_goes_in_the_end() -> None:
    x, small = logits(64), logits(8)
    gradient(x)
    for _ in range(15):
        gradient(small)
    assert fused_ce.kept_bytes() == 64 * MB
    gradient(x)  # used: it may wait as long again
    for _ in range(15):
        gradient(small)
    assert fused_ce.kept_bytes() == 64 * MB
    gradient(small)
    assert fused_ce.kept_bytes() == 8 * MB


@pytest.mark.parametrize("first", ["small", "large"])
def test_the_larger_of_two_is_kept(first: str) -> None:
    large, small = gradient(logits(16)), gradient(logits(8))
    if first == "small":
        del small
        assert fused_ce.kept_bytes() == 8 * MB
        del large
    else:
        del large
        assert fused_ce.kept_bytes() == 16 * MB
        del small
    assert fused_ce.kept_bytes() == 16 * MB


def test_growing_sizes() -> None:
    for megabytes in range(4, 16):
        x = logits(megabytes)
        check(gradient(x), x)
        assert fused_ce.kept_bytes() == megabytes * MB


def test_live_gradients_share_nothing() -> None:
    x = logits(8)
    gradient(x)
    grads = [gradient(x, label) for label in range(4)]
    for label, grad in enumerate(grads):
        check(grad, x, label)
    starts = sorted(grad.data_ptr() for grad in grads)
    assert all(b - a >= 8 * MB for a, b in itertools.pairwise(starts))
    view = grads[0][3:].view(-1)[5:]
    expected = view.clone()
    del grads
    for label in range(4):
        gradient(x, label)
    assert torch.equal(view, expected)  # a view alone keeps the memory in use


def test_accumulated_gradients() -> None:
    x = logits(8)
    for _ in range(3):
        fused_ce.cross_entropy(x, torch.zeros(32, dtype=torch.long)).backward()
    torch.testing.assert_close(x.grad, 3 * gradient(x))


def test_threads() -> None:
    def steps(number: int) -> None:
        x = torch.randn(20 + 9 * number, CLASSES, requires_grad=True)
        target = torch.zeros(len(x), dtype=torch.long)
        expected = torch.autograd.grad(fused_ce.cross_entropy(x, target), x)[0].clone()
        for step in range(20):
            assert torch.equal(gradient(x), expected), step
            fused_ce.kept_bytes()
            if step % 7 == number:
                fused_ce.empty_cache()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(steps, range(4)))


# Peaks. LazyFree pages count as resident: what is kept must be gone before a larger one comes.


def test_peak_is_one_gradient() -> None:
    run(
        "xs = [logits(m) for m in (16, 32, 48, 64, 64, 40, 64)]\n"
        "gradient(logits(4)); fused_ce.empty_cache()\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # the peak is what there is now
        "before = memory('VmHWM')\n"
        "for x in xs: gradient(x)\n"
        "peak = memory('VmHWM') - before\n"
        "assert 63 * MB < peak < 66 * MB, peak / MB\n"
    )


def test_allocation_that_fails() -> None:
    """What is kept goes back, and the system is asked again; then it is torch's exception."""
    run(
        "x, huge = logits(8), torch.randn(1, MB).expand(256, MB).requires_grad_()\n"
        "check(gradient(x), x)\n"
        "gradient(logits(64))\n"
        "assert fused_ce.kept_bytes() == 64 * MB\n"
        "limit = memory('VmSize') + 6 * MB\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))\n"
        "grad = gradient(x)\n"
        "assert fused_ce.kept_bytes() == 0\n"
        "messages = []\n"
        "for f in (gradient, torch.empty_like, lambda x: torch.empty(x.shape)):\n"
        "    try: f(huge)\n"
        "    except RuntimeError as error: messages.append(str(error))\n"
        "ours, *theirs = messages\n"
        'assert "can\'t allocate memory: you tried to allocate 1073741824 bytes" in ours, ours\n'
        "assert theirs[0].splitlines()[0] == ours.splitlines()[0], messages\n"
        "del grad\n"
        "assert fused_ce.kept_bytes() == 0\n"  # idle addresses would count
        "resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)\n"
        "check(gradient(x), x)\n"
        "assert fused_ce.kept_bytes() == 8 * MB\n"
    )


# Fork.

IN_A_CHILD = """
def in_a_child(f):
    child = os.fork()
    if child == 0:
        try:
            f()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    return child
def wait(child):
    assert os.waitpid(child, 0)[1] == 0
def mapped(address):
    ranges = (line.split()[0].split("-") for line in open("/proc/self/maps"))
    return any(int(begin, 16) <= address < int(end, 16) for begin, end in ranges)
"""


def test_child_has_a_block_of_its_own() -> None:
    run(
        IN_A_CHILD + "x = logits(8)\n"
        "expected = gradient(x).clone()\n"
        "address = gradient(x).data_ptr()\n"
        "def child():\n"
        "    assert fused_ce.kept_bytes() == 0\n"
        "    assert not mapped(address)\n"
        "    for _ in range(3): assert torch.equal(gradient(x), expected)\n"
        "    assert fused_ce.kept_bytes() == 8 * MB\n"
        "    fused_ce.empty_cache()\n"
        "assert mapped(address)\n"
        "wait(in_a_child(child))\n"
        "assert fused_ce.kept_bytes() == 8 * MB\n"
        "grad = gradient(x)\n"
        "assert grad.data_ptr() == address and torch.equal(grad, expected)\n"
        "def grandchild(): child(); wait(in_a_child(child))\n"
        "del grad\n"
        "wait(in_a_child(grandchild))\n"
    )


def test_child_inherits_gradients_in_use() -> None:
    """Also those in memory that was idle before; parent and child change and free their own."""
    run(
        IN_A_CHILD + "x, y = logits(8), logits(8)\n"
        "expected = gradient(x).clone()\n"
        "grad = gradient(x)\n"
        "def child():\n"
        "    global grad\n"
        "    assert torch.equal(grad, expected)\n"
        "    grad.zero_(); del grad\n"
        "    assert fused_ce.kept_bytes() == 8 * MB\n"
        "    for _ in range(3): check(gradient(y), y)\n"
        "wait(in_a_child(child))\n"
        "assert torch.equal(grad, expected)\n"
        "ready, go = os.pipe()\n"
        "def slow():\n"
        "    os.read(ready, 1)\n"
        "    child()\n"
        "pid = in_a_child(slow)\n"
        "del grad\n"
        "check(gradient(y), y)\n"
        "os.write(go, b'.')\n"
        "wait(pid)\n"
    )


def test_fork_while_a_thread_computes() -> None:
    run(
        IN_A_CHILD + "x = logits(4)\n"
        "target = torch.zeros(16, dtype=torch.long)\n"
        "*_, saved, total = torch.ops.fused_ce._forward(x.detach(), target, save=True)\n"
        "one = torch.ones([])\n"
        # Without the autograd engine, whose locks no child may take while another thread has them.
        "def step():\n"
        "    with torch.no_grad():\n"
        "        return torch.ops.fused_ce._backward(\n"
        "            one, None, None, None, x.detach(), target, None, None, saved, total)\n"
        "expected, stop = step().clone(), False\n"
        "def work():\n"
        "    while not stop: assert torch.equal(step(), expected)\n"
        "threads = [threading.Thread(target=work) for _ in range(2)]\n"
        "for thread in threads: thread.start()\n"
        "def child():\n"
        "    for _ in range(3): assert torch.equal(step(), expected)\n"
        "try:\n"
        "    for _ in range(40): wait(in_a_child(child))\n"
        "finally:\n"
        "    stop = True\n"
        "for thread in threads: thread.join()\n"
    )


# Tensors like others.


def test_resize() -> None:
    x = logits(8)
    grad = gradient(x)
    expected = grad.clone()
    assert grad.untyped_storage().resizable()
    grad.resize_(64, CLASSES)
    assert torch.equal(grad[:32], expected)
    assert fused_ce.kept_bytes() == 8 * MB  # what it left
    grad.fill_(1)
    grad.untyped_storage().resize_(64)
    grad.resize_(16)
    assert torch.equal(grad, torch.ones(16))
    grad.untyped_storage().resize_(0)
    assert fused_ce.kept_bytes() == 16 * MB
    grad.resize_(32, CLASSES).copy_(expected)
    assert torch.equal(grad, expected) and torch.equal(gradient(x), expected)


def test_set_and_swap() -> None:
    x = logits(8)
    grad, expected = gradient(x), gradient(x).clone()
    other = torch.empty(0)
    other.set_(grad.untyped_storage(), 0, grad.shape)
    grad.data = torch.zeros(1)
    gradient(x, 3)
    assert torch.equal(other, expected)
    other.set_()
    assert fused_ce.kept_bytes() == 8 * MB


def test_copies() -> None:
    x = logits(8)
    grad, expected = gradient(x), gradient(x).clone()
    file = io.BytesIO()
    torch.save(grad, file)
    file.seek(0)
    saved = torch.load(file)
    copies = [pickle.loads(pickle.dumps(grad)), copy.deepcopy(grad), saved]
    lazy = torch._lazy_clone(grad)
    array, capsule = grad.numpy(), torch.from_dlpack(grad)
    del grad
    gradient(x, 3)
    assert all(torch.equal(other, expected) for other in [*copies, lazy, capsule])
    assert (array == expected.numpy()).all()
    lazy.add_(1)
    assert torch.equal(capsule, expected) and torch.equal(lazy, expected + 1)


def test_shared_memory() -> None:
    x = logits(8)
    grad, expected = gradient(x), gradient(x).clone()
    grad.share_memory_()
    assert grad.is_shared() and torch.equal(grad, expected)
    assert fused_ce.kept_bytes() == 8 * MB  # what it left
    check(gradient(x, 3), x, 3)
    assert torch.equal(grad, expected)


def _send(queue: torch.multiprocessing.Queue, done: object) -> None:
    torch.set_num_threads(1)
    x = torch.zeros(32, CLASSES, requires_grad=True)
    for label in range(3):
        queue.put(gradient(x, label))
    done.wait(60)  # the sender has the memory until it is received


def test_sent_by_another_process() -> None:
    context = torch.multiprocessing.get_context("fork")
    queue, done = context.Queue(), context.Event()
    gradient(logits(8))
    process = context.Process(target=_send, args=(queue, done))
    process.start()
    x = torch.zeros(32, CLASSES, requires_grad=True)
    grads = [queue.get(timeout=120) for _ in range(3)]
    for label, grad in enumerate(grads):
        check(grad, x, label)
    done.set()
    process.join(60)
    assert process.exitcode == 0


def test_profiler() -> None:
    """Sees what gradients take and give back, kept memory or not."""
    x = logits(8)
    gradient(x)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        for _ in range(2):
            gradient(x)
    sizes = [e.nbytes() for e in events.profiler.kineto_results.events() if e.name() == "[memory]"]
    assert [size for size in sizes if abs(size) >= 4 * MB] == [8 * MB, -8 * MB] * 2


def test_gradient_that_outlives_the_interpreter() -> None:
    run(
        "import builtins, ctypes\n"
        "builtins.first = gradient(logits(8))\n"
        "second = gradient(logits(8))\n"
        "ctypes.pythonapi.Py_IncRef(ctypes.py_object(second))\n"
        "gradient(logits(8))\n"
    )
