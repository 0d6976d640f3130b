# SPDX-License-Identifier: BSD-3-Clause
"""Time and memory of a linear layer with cross entropy, forward and backward with all gradients.

fused_ce's, whose logits exist a chunk of rows at a time, beside plain torch, torch compiled, its
F.linear_cross_entropy, chunks as Liger-Kernel makes them (on a GPU: Liger-Kernel and quack, where
installed), and the three matrix products that all of them need. Times are interleaved in one
process, as bench.py does it; the peak of memory is that of one call (on the CPU in a fresh
process), beyond weights, inputs and their gradients.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from functools import partial
from itertools import product
from pathlib import Path

import torch
from cases import DTYPES, Spec
from devices import Call, Device, device_of
from layers import CUDA, LARGE, PHASE, QUICK, SMALL, Layer, Loss, answering, losses
from timing import Record, clocks, interleave, machine_of, other_load, summary, write
from tqdm import tqdm

# Where a round takes a minute and a half.
NOT_ON_ONE_THREAD = LARGE[3]
SMALLEST_PEAK = 1 << 22  # logits: below, a peak is not seen among the pages of everything else


def measure(spec: Spec, device: Device, seconds: float, compiles: bool) -> Record:
    torch.set_num_threads(spec.threads)
    torch.compiler.reset()  # each case is compiled alone, for its own shape and threads
    rows, features, classes = spec.sizes()
    found = losses(compiles, device.name)
    # Few rows are enough to warm up what is not made for a shape: all take up to a minute.
    few = Layer(f"{max(rows // 8, 1)}x{features}x{classes}", spec.dtype, device.name)
    left_out = answering(few, found)
    del few
    layer = Layer(spec.shape, spec.dtype, device.name)
    calls: dict[str, Call] = {"products": layer.products()}
    calls |= {name: partial(layer.both, loss) for name, loss in found.items()}
    small = rows * classes < SMALLEST_PEAK
    for name, call in calls.items():
        if small or device.name == "cuda" or name in ("products", "compile"):
            call()
    shortest = min(device.sample(call, 1) for call in calls.values()) if small else math.inf
    batch = max(1, math.ceil(device.shortest_sample / shortest))
    before = clocks()
    times = interleave(device, calls, batch, seconds / 10 if small else seconds, fewest=2)
    load = other_load(before, clocks())
    return {
        **spec._asdict(),
        "batch": batch,
        "other load": load,
        "left out": left_out,
        PHASE: {name: {**summary(t), "min": min(t)} for name, t in times.items()},
    }


def peak(layer: Layer, loss: Loss, device: Device) -> int:
    """Bytes at the peak of one call, beyond weights, inputs and their gradients."""
    layer.x.grad = layer.weight.grad = None
    growth = device.peak_growth(partial(layer.both, loss))
    return growth - layer.x.nbytes - layer.weight.nbytes


def peak_alone(spec: Spec, name: str, device: Device) -> int:
    """The same on the CPU. It wants a process of its own."""
    torch.set_num_threads(spec.threads)
    loss = losses(name == "compile", device.name)[name]
    layer = Layer(spec.shape, spec.dtype, device.name)
    # Libraries and threads come first. What is compiled is so for its own shape.
    warm = layer if name == "compile" else Layer("64x64x100", spec.dtype, device.name)
    warm.both(loss)
    warm.x.grad = warm.weight.grad = None
    return peak(layer, loss, device)


def peaks(spec: Spec, names: list[str], compiles: bool, device: Device) -> Record:
    measured = {}
    if device.name == "cuda":  # torch counts what it allocates: nothing before matters
        layer = Layer(spec.shape, spec.dtype, device.name)
        found = losses(compiles, device.name)
        measured = {name: peak(layer, found[name], device) for name in names}
        return {**spec._asdict(), "peak bytes": measured}
    for name in names:
        alone = [sys.executable, __file__, "--shapes", spec.shape, "--dtypes", spec.dtype]
        alone += ["--threads", str(spec.threads), "--peak", name]
        said = subprocess.run(alone, check=True, stdout=subprocess.PIPE, text=True).stdout
        measured[name] = int(said.split()[-1])
    return {**spec._asdict(), "peak bytes": measured}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="smaller shapes, nothing compiled: within 90 seconds"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", nargs="+", help="rows, features, classes: 1024x512x32000")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, help="of --shapes: float32")
    parser.add_argument("--threads", nargs="+", type=int, help="one, and all; --quick: all")
    parser.add_argument("--seconds", type=float, help="each of the larger: 12; --quick: 4")
    parser.add_argument("--peak", metavar="NAME", help="the peak of one alone, in this process")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/linear.json"))
    return parser.parse_args()


def chosen(arguments: argparse.Namespace) -> list[Spec]:
    everything = torch.get_num_threads()
    on_gpu = arguments.device == "cuda"
    cases = CUDA if on_gpu else QUICK if arguments.quick else [*LARGE, *SMALL]
    if arguments.shapes:
        cases = list(product(arguments.shapes, arguments.dtypes or ["float32"]))
    default = {everything} if arguments.quick or on_gpu else {everything, 1}
    return [
        Spec(shape, dtype, "indices", threads)
        for threads in arguments.threads or sorted(default, reverse=True)
        for shape, dtype in cases
        if arguments.threads or threads > 1 or (shape, dtype) != NOT_ON_ONE_THREAD
    ]


def main() -> None:
    arguments = parse()
    device, specs, compiles = device_of(arguments.device), chosen(arguments), not arguments.quick
    if arguments.peak:
        print(peak_alone(specs[0], arguments.peak, device))
        return
    seconds = arguments.seconds or (4.0 if arguments.quick else 12.0)
    if not hasattr(torch.nn.functional, "linear_cross_entropy"):
        print(f"torch {torch.__version__} has no linear_cross_entropy of its own: left out")
    machine = machine_of(device)
    records: list[Record] = []
    memory: list[Record] = []

    for spec in (progress := tqdm(specs)):
        progress.set_description(f"{spec.shape} {spec.dtype} {spec.threads}")
        records.append(record := measure(spec, device, seconds, compiles))
        # The number of threads is nothing to it. A GPU's peak is seen however small.
        rows, _, classes = spec.sizes()
        seen = device.name == "cuda" or rows * classes >= SMALLEST_PEAK
        if seen and spec.threads == specs[0].threads:
            names = [name for name in record[PHASE] if name != "products"]
            memory.append(peaks(spec, names, compiles, device))
        write(arguments.out, {"machine": machine, "records": records, "memory": memory})
    if device.name == "cpu":  # of a GPU, tests/cuda/gpu_report.py has it
        from linear_report import report  # matplotlib, which the processes of a peak do without

        report(arguments.out)


if __name__ == "__main__":
    main()
