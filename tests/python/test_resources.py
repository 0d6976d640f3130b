# SPDX-License-Identifier: BSD-3-Clause
"""What a call costs: memory, threads; and that neither threads nor instruction set matter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fused_ce
import pytest
import torch
from conftest import run_again
from torch.profiler import ProfilerActivity, profile

LOGITS = {
    "rows": lambda: torch.randn(512, 1000),
    "transposed": lambda: torch.randn(1000, 512).t(),
    "planes": lambda: torch.randn(4, 50, 64, 64),
    "channels_last": lambda: torch.randn(4, 50, 64, 64).to(memory_format=torch.channels_last),
    "sliced": lambda: torch.randn(512, 2000)[:, ::2],
    "few_classes": lambda: torch.randn(65536, 10),
}


def allocated(f: object) -> int:
    """Bytes that f takes from torch's allocator, counting what it gives back as well."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as events:
        f()
    sizes = (e.nbytes() for e in events.profiler.kineto_results.events() if e.name() == "[memory]")
    return sum(size for size in sizes if size > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LOGITS)
def test_memory(layout: str, dtype: torch.dtype) -> None:
    x = LOGITS[layout]().to(dtype)
    target = torch.zeros((x.size(0), *x.shape[2:]), dtype=torch.long)
    rows = target.numel()
    size = x.numel() * x.element_size()
    a_few_numbers_a_row = 16 * rows + 1024
    assert allocated(lambda: fused_ce.cross_entropy(x, target)) <= a_few_numbers_a_row
    x.requires_grad_()
    both = allocated(lambda: torch.autograd.grad(fused_ce.cross_entropy(x, target), x))
    assert size <= both <= size + 3 * a_few_numbers_a_row


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layout", LOGITS)
def test_any_number_of_threads_gives_the_same_bits(layout: str, dtype: torch.dtype) -> None:
    x = LOGITS[layout]().to(dtype).requires_grad_()
    target = torch.randint(0, 10, (x.size(0), *x.shape[2:]))
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            loss = fused_ce.cross_entropy(x, target, label_smoothing=0.1)
            results.append((loss.detach(), torch.autograd.grad(loss, x)[0]))
    finally:
        torch.set_num_threads(before)
    for loss, grad in results[1:]:
        assert torch.equal(loss, results[0][0]) and torch.equal(grad, results[0][1])


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux's /proc")
def test_memory_does_not_grow() -> None:
    x = torch.randn(16, 40, requires_grad=True)
    target, probabilities = torch.randint(40, (16,)), torch.rand(16, 40)
    bad = torch.full((16,), 40)

    def steps(count: int) -> None:
        for step in range(count):
            y = probabilities if step % 2 else target
            torch.autograd.grad(fused_ce.cross_entropy(x, y, label_smoothing=0.1), x)
            if step % 100 == 0:
                with pytest.raises((IndexError, RuntimeError)):
                    fused_ce.cross_entropy(x, bad)

    steps(1000)
    before = resident()
    steps(10_000)
    assert resident() - before < 1 << 20  # a hundred bytes a step


TWO_THREADS = """
import os, torch, fused_ce
def busy():
    times = {}
    for task in os.listdir("/proc/self/task"):
        fields = open(f"/proc/self/task/{task}/stat").read().rsplit(")", 1)[1].split()
        times[task] = int(fields[11])
    return times
torch.set_num_threads(2)
x = torch.zeros(1024, 20000); t = torch.zeros(1024, dtype=torch.long)
before = busy()
for _ in range(60): fused_ce.cross_entropy(x, t)
after = busy()
print(sum(after[k] - before.get(k, 0) >= 5 for k in after))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux's /proc")
def test_two_threads_really_work() -> None:
    result = subprocess.run(
        [sys.executable, "-c", TWO_THREADS], capture_output=True, text=True, check=True
    )
    assert int(result.stdout) == 2, result.stdout


def test_build_info() -> None:
    info = fused_ce.build_info()
    assert set(info) == {
        *("version", "torch", "compiler", "openmp"),
        *("cpu_capability", "cpu_capabilities"),
        *("cuda", "cuda_version", "cuda_architectures"),
        "bfloat16_products",
    }
    has_instructions = info["cpu_capability"] == "avx512_bf16"
    assert info["bfloat16_products"] == ("bfloat16" if has_instructions else "float32")
    assert info["cpu_capability"] in info["cpu_capabilities"]
    assert bool(info["cuda_version"]) == bool(info["cuda_architectures"]) == info["cuda"]
    if info["cuda"]:
        assert str(info["cuda_version"]).split(".")[0] == str(torch.version.cuda).split(".")[0]
        assert all(name.startswith(("sm_", "compute_")) for name in info["cuda_architectures"])


def test_library_alone() -> None:
    library = Path(fused_ce.cmake_prefix_path) / "lib" / "libfused_ce.so"
    code = (
        "import sys; sys.modules['fused_ce'] = None; import torch;"
        f"torch.ops.load_library({str(library)!r});"
        "print(torch.ops.fused_ce.cross_entropy(torch.zeros(2, 4), torch.tensor([1, 2])).item())"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert float(result.stdout) == pytest.approx(1.3862943649, abs=1e-7)


@pytest.mark.parametrize("file", ["test_parity.py", "test_edges.py"])
@pytest.mark.parametrize("capability", fused_ce.build_info()["cpu_capabilities"])
def test_parity_at_every_instruction_set(capability: str, file: str) -> None:
    """The parity and edge tests once more, in a process that is held to the instruction set.

    Of parity's reductions two: rows are those of a mean where they are of a sum.
    """
    if capability == fused_ce.build_info()["cpu_capability"]:
        pytest.skip("this process runs it")
    environment = {**os.environ, "FUSED_CE_CPU_CAPABILITY": capability}
    check = "import fused_ce; print(fused_ce.build_info()['cpu_capability'])"
    active = subprocess.run(
        [sys.executable, "-c", check], env=environment, capture_output=True, text=True, check=True
    )
    assert active.stdout.strip() == capability and "is ignored" not in active.stderr
    options = ["-k", "not sum"] if file == "test_parity.py" else []
    run_again(file, *options, FUSED_CE_CPU_CAPABILITY=capability)


@pytest.mark.parametrize("name", ["nonsense", ""])
def test_unknown_instruction_set(name: str) -> None:
    """Is told, with the names that this machine has."""
    code = "import fused_ce; print(fused_ce.build_info()['cpu_capability'])"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "FUSED_CE_CPU_CAPABILITY": name},
        capture_output=True,
        text=True,
        check=True,
    )
    known = fused_ce.build_info()["cpu_capabilities"]
    assert result.stdout.strip() == known[-1]
    assert f"FUSED_CE_CPU_CAPABILITY={name} is ignored" in result.stderr
    assert ", ".join(known) in result.stderr
