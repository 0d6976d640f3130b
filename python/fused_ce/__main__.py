# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fused_ce``: what is installed, whether it computes, and what it gains here."""

import argparse
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.utils.benchmark import Timer

import fused_ce

# Roundings of a float32 loss of some hundred classes, in float32's own steps: far more than there
# are, far less than any mistake makes. Half types: half a step of theirs.
_TOLERANCE = {
    torch.float64: 1e-14,
    torch.float32: 1e-6,
    torch.bfloat16: 2**-8,
    torch.float16: 2**-11,
}


def devices() -> list[str]:
    """Those that the library has kernels for, and this machine has."""
    has_cuda = fused_ce.build_info()["cuda"] and torch.cuda.is_available()
    return ["cpu", "cuda"] if has_cuda else ["cpu"]


# One for each of the kernels' ways through memory: few classes, long rows, planes.
_SHAPES = ((64, 10), (64, 500), (4, 21, 8, 8))


def wrong(device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> float:
    """How far loss and gradient are from torch's in float64, relative to what they may be."""
    generator = torch.Generator().manual_seed(0)
    logits = (3 * torch.randn(shape, generator=generator)).to(device, dtype).requires_grad_()
    rows = (shape[0], *shape[2:])
    target = torch.randint(shape[1], rows, generator=generator).to(device)
    exact = logits.detach().double().requires_grad_()
    loss = fused_ce.cross_entropy(logits, target, label_smoothing=0.1)
    reference = F.cross_entropy(exact, target, label_smoothing=0.1)
    (gradient,) = torch.autograd.grad(loss, logits)
    (reference_gradient,) = torch.autograd.grad(reference, exact)
    errors = (
        (loss.detach().double() - reference.detach()).abs() / reference.detach(),
        (gradient.double() - reference_gradient).abs().max() / reference_gradient.abs().max(),
    )
    return float(torch.stack(errors).max()) / _TOLERANCE[dtype]  # NaN if any is


def times(device: str, rows: int, classes: int, threads: int) -> tuple[float, float]:
    """Milliseconds of torch's loss and of ours, forward and backward, taken in turns."""
    logits = torch.randn(rows, classes, device=device, requires_grad=True)
    target = torch.randint(classes, (rows,), device=device)
    timers = [
        Timer(
            "torch.autograd.grad(cross_entropy(logits, target), logits)",
            globals={"cross_entropy": loss, "logits": logits, "target": target, "torch": torch},
            num_threads=threads,
        )
        for loss in (F.cross_entropy, fused_ce.cross_entropy)
    ]
    rounds = [[timer.blocked_autorange(min_run_time=0.1).median for timer in timers] for _ in "123"]
    torchs, ours = (1e3 * statistics.median(column) for column in zip(*rounds, strict=True))
    return torchs, ours


def main() -> int:
    argparse.ArgumentParser(prog="python -m fused_ce", description=__doc__).parse_args()
    for key, value in fused_ce.build_info().items():
        print(f"{key:18} {' '.join(value) if isinstance(value, list) else value}")
    print(f"{'threads':18} {torch.get_num_threads()}")
    failed = False
    for device in devices():
        for dtype in _TOLERANCE:
            errors = [wrong(device, dtype, shape) for shape in _SHAPES]
            ok = all(error <= 1 for error in errors)
            failed |= not ok
            name = f"{device} {str(dtype).removeprefix('torch.')}"
            told = "times the tolerance at " + ", ".join(map(str, _SHAPES))
            print(f"{name:18} {'ok' if ok else f'WRONG: {errors} {told}'}")
        for rows, classes, threads in ((64, 10, 1), (512, 32000, torch.get_num_threads())):
            torchs, ours = times(device, rows, classes, threads)
            name = f"{device} {rows} x {classes}"
            print(
                f"{name:18} forward and backward, threads: {threads}; torch {torchs:.3g} ms, "
                f"fused_ce {ours:.3g} ms: {torchs / ours:.2f} times faster"
            )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
