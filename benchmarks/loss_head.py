# SPDX-License-Identifier: BSD-3-Clause
"""Time what a loss head gives beside the loss, over fused_ce's own loss alone, and beside torch.

Each feature as fused_ce computes it, as a user would write it with torch's operators, eager and
compiled, and on a GPU as the libraries of peers.py have it; interleaved in one process with the
loss alone, as bench.py does it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import fused_ce
import torch
import torch.nn.functional as F
from cases import DTYPES, Case, Loss, Spec
from devices import Call, Device, device_of
from peers import OVERWRITES, flash_attn, installed, liger
from rich.console import Console
from rich.table import Table
from timing import Record, clocks, interleave, machine_of, other_load, summary, write
from torch import Tensor
from tqdm import tqdm

SHAPES = ["1024x32000", "8192x1000", "65536x10", "4x21x512x512"]
QUICK = ["16384x10", "1x21x64x64"]
CUDA = ["8192x32000", "65536x1000", "8x21x512x512"]
SCALE, TEMPERATURE, Z_LOSS, CAP = 0.5, 0.7, 1e-4, 30.0

Results = tuple[Tensor, ...]  # what a backward starts from, then what is not differentiable
Head = Callable[[Tensor, Tensor, Tensor], Results]  # of logits, class indices and row weights

# What each feature asks of ours.
OPTIONS: dict[str, dict[str, Any]] = {
    "loss": {},
    "lse": {"return_lse": True},
    "z-loss": {"z_loss_weight": Z_LOSS},
    "scale and temperature": {"logit_scale": SCALE, "temperature": TEMPERATURE},
    "row weights": {},
    "entropy": {"return_entropy": True},
    "prediction": {"return_prediction": True},
    "entropy and prediction": {"return_entropy": True, "return_prediction": True},
    "softcap": {"softcap": CAP},
}


# The same of a library's own loss. What it does otherwise, or not at all, is left out.
OF_LIBRARIES: dict[str, dict[str, Callable[[], Loss]]] = {
    "liger": {
        "z-loss": lambda: partial(liger(), lse_square_scale=Z_LOSS),
        "softcap": lambda: partial(liger(), softcap=CAP),
    },
    "flash-attn": {
        "z-loss": lambda: flash_attn(lse_square_scale=Z_LOSS),
        "scale and temperature": lambda: flash_attn(logit_scale=SCALE / TEMPERATURE),
    },
}


def ours(feature: str, x: Tensor, target: Tensor, rows: Tensor) -> Results:
    if feature == "loss":
        return (fused_ce.cross_entropy(x, target),)
    weights: dict[str, Any] = {"row_weight": rows} if feature == "row weights" else {}
    stats = fused_ce.cross_entropy_stats(x, target, **OPTIONS[feature], **weights)
    return tuple(
        result
        for result in (stats.loss, stats.lse, stats.entropy, stats.prediction, stats.confidence)
        if result is not None
    )


def entropy_of(x: Tensor) -> Tensor:
    logs = x.float().log_softmax(1)
    return -(logs.exp() * logs).sum(1)


def prediction_of(x: Tensor) -> Results:
    confidence, prediction = x.detach().float().softmax(1).max(1)
    return prediction, confidence


def theirs(feature: str, x: Tensor, target: Tensor, rows: Tensor) -> Results:
    if feature == "scale and temperature":
        return (F.cross_entropy(x * (SCALE / TEMPERATURE), target),)
    if feature == "softcap":
        return (F.cross_entropy(CAP * torch.tanh(x / CAP), target),)
    if feature == "row weights":
        losses = F.cross_entropy(x, target, reduction="none")
        return ((rows * losses).sum() / rows.sum(),)
    loss = F.cross_entropy(x, target)
    if feature == "lse":
        return loss, x.float().logsumexp(1)
    if feature == "z-loss":
        return (loss + Z_LOSS * x.float().logsumexp(1).square().mean(),)
    entropy = (entropy_of(x),) if "entropy" in feature else ()
    prediction = prediction_of(x) if "prediction" in feature else ()
    return loss, *entropy, *prediction


def of_library(loss: Loss, x: Tensor, target: Tensor, rows: Tensor) -> Results:
    return (loss(x, target),)


def total(results: Results) -> Tensor:
    """What backward is called on: every result that has a gradient takes part."""
    return torch.stack([r.float().mean() for r in results if r.requires_grad]).sum()


def both(head: Head, x: Tensor, target: Tensor, rows: Tensor) -> None:
    x.grad = None
    torch.autograd.backward(total(head(x, target, rows)))


def check(found: Results, want: Results) -> None:
    """Predictions of half types may differ where two classes have one probability."""
    for a, b in zip(found, want, strict=True):
        if a.is_floating_point():
            torch.testing.assert_close(a.float(), b.float(), rtol=0.02, atol=1e-3)


def heads_of(feature: str, compiles: bool, libraries: list[str]) -> dict[str, Head]:
    eager = partial(theirs, feature)
    heads: dict[str, Head] = {
        "loss alone": partial(ours, "loss"),
        "fused_ce": partial(ours, feature),
        "eager": eager,
    }
    if compiles:
        heads["compile"] = torch.compile(eager, dynamic=False)
    for name in libraries:
        if make := OF_LIBRARIES.get(name, {}).get(feature):
            heads[name] = partial(of_library, make())
    return heads


def measure(
    spec: Spec, device: Device, seconds: float, compiles: bool, libraries: list[str]
) -> list[Record]:
    torch.set_num_threads(spec.threads)
    case = Case(spec, device.name)
    rows = torch.rand_like(case.target, dtype=case.logits.dtype)
    records = []
    for feature in OPTIONS:
        torch.compiler.reset()  # each is compiled alone, for its own shape
        heads = heads_of(feature, compiles, libraries)
        record: Record = {**spec._asdict(), "feature": feature, "other load": 0.0, "left out": {}}
        for phase in ("forward", "forward+backward"):
            backward = phase == "forward+backward"
            x = case.logits if backward else case.logits.detach()
            with torch.set_grad_enabled(backward):
                if not backward:
                    want = heads["fused_ce"](x, case.target, rows)
                    for name in list(heads)[2:]:
                        try:
                            check(heads[name](x, case.target, rows), want)
                        except Exception as error:
                            record["left out"][name] = f"{type(error).__name__}: {error}"[:200]
                            print(f"{feature}, {spec.shape}: without {name}: {error}")
                            del heads[name]
                calls: dict[str, Call] = {}
                for name, head in heads.items():
                    # What overwrites logits has its own.
                    its = x.detach().clone().requires_grad_() if name in OVERWRITES else x
                    calls[name] = (
                        partial(both, head, its, case.target, rows)
                        if backward
                        else partial(head, x, case.target, rows)
                    )
                for call in calls.values():
                    call()
                before = clocks()
                times = interleave(device, calls, 1, seconds)
                load = other_load(before, clocks())
            case.logits.grad = None
            record["other load"] = max(record["other load"], load)
            record[phase] = {name: summary(t) for name, t in times.items()}
        records.append(record)
    return records


def table(records: list[Record], phase: str) -> Table:
    names = list(dict.fromkeys(n for r in records for n in r[phase]))[1:]
    result = Table(title=f"{phase}: time over our loss alone (medians), {' / '.join(names)}")
    result.add_column("feature", no_wrap=True)
    cases = list(dict.fromkeys((r["shape"], r["dtype"]) for r in records))
    for shape, dtype in cases:
        result.add_column(f"{shape}\n{dtype}", justify="right")
    for feature in OPTIONS:
        cells = []
        for case in cases:
            for r in records:
                if (r["shape"], r["dtype"], r["feature"]) == (*case, feature):
                    alone = r[phase]["loss alone"]["median"]
                    times = [r[phase].get(n) for n in names]
                    ratios = [f"{t['median'] / alone:.3g}" if t else "-" for t in times]
                    cells.append(" / ".join(ratios))
        result.add_row(feature, *cells)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two small shapes, nothing compiled")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", nargs="+", help="such as 8192x1000 or 4x21x512x512")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, help="each feature and phase: 2; --quick: 0.2")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/loss_head.json"))
    arguments = parser.parse_args()
    seconds = arguments.seconds or (0.2 if arguments.quick else 2.0)
    on_gpu = arguments.device == "cuda"
    shapes = arguments.shapes or (CUDA if on_gpu else QUICK if arguments.quick else SHAPES)
    libraries = installed() if on_gpu else []
    device = device_of(arguments.device)
    machine = machine_of(device)
    records: list[Record] = []
    for shape, dtype in tqdm(list(product(shapes, arguments.dtypes))):
        spec = Spec(shape, dtype, "indices", arguments.threads)
        records += measure(spec, device, seconds, not arguments.quick, libraries)
        write(arguments.out, {"machine": machine, "records": records})
    console = Console(width=200)
    for phase in ("forward", "forward+backward"):
        console.print(table(records, phase))
    other = max(float(r["other load"]) for r in records)
    console.print(f"others took {100 * other:.0f} % of the machine at most")
    console.print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
