"""Plant bugs in the CPU kernels, one at a time, and see that the GoogleTests catch each.

    .venv/bin/python tests/mutation/run.py [NAME ...]

Works on a copy of the sources; takes about a minute a bug. Exits with 1 if one survives.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch.utils

ROOT = Path(__file__).resolve().parents[2]


class Mutant(NamedTuple):
    name: str
    file: str
    before: str
    after: str


MUTANTS = [
    Mutant("wrong sign of the target's gradient", "group.h", "at_target = -g *", "at_target = g *"),
    Mutant(
        "target's own term left in the sum (rows)",
        "rows.h",
        "limits_[kBlock] = kNone;",
        "limits_[kBlock] = -kNone;",
    ),
    Mutant(
        "target's own term left in the sum (few)",
        "few.h",
        "kIndices && to_target == static_cast<Int<A>>(k) ? splat(kNone) : square[k]",
        "square[k]",
    ),
    Mutant(
        "target's own term left in the sum (planes)",
        "planes.h",
        "kept = is_target ? splat(kNone) : logits;",
        "kept = logits;",
    ),
    Mutant(
        "lost tail of a row",
        "rows.h",
        "    if (j < n) {\n      // The last",
        "    if (j < n - 1) {\n      // The last",
    ),
    Mutant(
        "tail of a row counted twice",
        "rows.h",
        "(lane >= static_cast<Int<A>>(j)) & (lane <",
        "(lane < static_cast<Int<A>>(n)) & (lane <",
    ),
    Mutant(
        "infinite logit twice in the tail",
        "rows.h",
        "(present ? load(x + first) : m)",
        "load(x + first)",
    ),
    Mutant(
        "lost tail of a gradient",
        "rows.h",
        "if (j < n) store(g + n - kW, whole(n - kW));",
        "if (j < n - 1) store(g + n - kW, whole(n - kW));",
    ),
    Mutant(
        "lost tail of a conversion",
        "convert.h",
        "if (j < n) store(to + n - kW,",
        "if (j < n - 1) store(to + n - kW,",
    ),
    Mutant(
        "only the last block counts",
        "terms.h",
        "exponentials.add(all(",
        "exponentials = {}, exponentials.add(all(",
    ),
    Mutant(
        "missing weight of the target",
        "layout.h",
        "static_cast<double>(weight[group.target[i]])",
        "1.0",
    ),
    Mutant(
        "weights of another class",
        "rows.h",
        "const V weight = w ? load(w + j) :",
        "const V weight = w ? load(w) :",
    ),
    Mutant(
        "row of the tile's start",
        "planes.h",
        "base_ = row_offset(p_, p_.logits_strides, first);",
        "base_ = row_offset(p_, p_.logits_strides, 0);",
    ),
    Mutant(
        "gradient at the logits' strides",
        "planes.h",
        "row_offset(p_, out.grad_strides, first_)",
        "row_offset(p_, p_.logits_strides, first_)",
    ),
    Mutant(
        "ignored rows counted", "layout.h", "V used = in_range & counted;", "V used = in_range;"
    ),
    Mutant(
        "range check off by one",
        "layout.h",
        "(c >= 0) & (c < p.classes)",
        "(c >= 0) & (c <= p.classes)",
    ),
    Mutant(
        "smoothing spread over C - 1",
        "group.h",
        "static_cast<double>(p.classes) : 0)",
        "static_cast<double>(p.classes - 1) : 0)",
    ),
    Mutant(
        "overflow not noticed (long rows)",
        "rows.h",
        "if (!in_range<kTerms>(i)) sum_row",
        "if (false) sum_row",
    ),
    Mutant(
        "overflow not noticed (few)",
        "few.h",
        "kIndices && !all_in_range()) sum<",
        "kIndices && false) sum<",
    ),
    Mutant(
        "overflow not noticed (planes)",
        "planes.h",
        "p_.classes > kProbedPlanes && !all_in_range<kTerms>()",
        "false",
    ),
    Mutant(
        "far guess kept for linear sums",
        "reference.h",
        "kLargestMean = 16;",
        "kLargestMean = 1e30;",
    ),
    Mutant("another class's limit", "rows.h", "limits_ + kBlock - y;", "limits_ + kBlock - y + 1;"),
    Mutant(
        "overlap's weights counted twice",
        "rows.h",
        "splat(kNone), present ? q : V{}",
        "splat(kNone), q",
    ),
    Mutant(
        "rounded reference",
        "reference.h",
        "(m * A(1.4426950408889634074) + K::kRound) - K::kRound",
        "m * A(1.4426950408889634074)",
    ),
    Mutant("truncated bfloat16", "convert.h", "u + 0x7fffu + ((u >> 16) & 1u)", "u"),
    Mutant("shorter polynomial", "math.h", "0x1.6a242cp-10f};", "0};"),
    Mutant(
        "plain 1 + z in log1p",
        "math.h",
        "? lost : Vec<double>{});",
        "? Vec<double>{} : Vec<double>{});",
    ),
    Mutant(
        "rest of the lost digits dropped", "math.h", "(k * K::kLn2Low + rest)", "k * K::kLn2Low"
    ),
    Mutant(
        "overflow not noticed (batches)",
        "rows.h",
        "} else if (!in_range<kTerms>(r)) {",
        "} else if (false) {",
    ),
    Mutant(
        "folded rows swapped",
        "transpose.h",
        "combine(interleave<0, kN>(a, b, All{})",
        "combine(interleave<0, kN>(b, a, All{})",
    ),
    Mutant(
        "transposed classes swapped",
        "transpose.h",
        "next[2 * i] = interleave<0, kN>(v[i], v[i + kN / 2], All{});",
        "next[2 * i] = interleave<0, kN>(v[i + kN / 2], v[i], All{});",
    ),
    Mutant(
        "target's logit not found",
        "planes.h",
        "target_logit = is_target ? logits : target_logit;",
        ";",
    ),
    Mutant(
        "another row's factors",
        "flat.h",
        "static_cast<Int<A>>(i / classes_)",
        "static_cast<Int<A>>((i + 1) / classes_ % kW)",
    ),
    Mutant("sum without its rounding errors", "sum.h", "sum + lost : sum", "sum : sum"),
]


def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)  # type: ignore[call-overload,no-any-return]


def verdict(source: Path, build: Path) -> str:
    built = run(["cmake", "--build", str(build), "--target", "kernel_tests"])
    if built.returncode:
        return "does not compile:\n" + built.stdout[-2000:]
    tests = run([str(next(build.rglob("kernel_tests")))], timeout=600)
    failed = sorted(set(re.findall(r"\[  FAILED  \] (?:\w+/)?(\w+\.\w+)", tests.stdout)))
    if tests.returncode == 0:
        return "SURVIVED"
    return "caught by " + (", ".join(failed) or f"exit code {tests.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only mutants whose name has it")
    arguments = parser.parse_args()
    chosen = [
        m for m in MUTANTS if not arguments.names or any(n in m.name for n in arguments.names)
    ]
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        source, build = Path(folder, "source"), Path(folder, "build")
        ignore = shutil.ignore_patterns(".git", ".venv", "build", "dist", ".*_cache")
        shutil.copytree(ROOT, source, ignore=ignore)
        configured = run(
            [
                *("cmake", "-S", str(source), "-B", str(build), "-DFUSED_CE_BUILD_TESTS=ON"),
                "-DCMAKE_PREFIX_PATH=" + torch.utils.cmake_prefix_path,
            ],
            env={**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count() or 1)},
        )
        if configured.returncode:
            sys.exit(configured.stdout + configured.stderr)
        for mutant in chosen:
            file = source / "kernels/cpu" / mutant.file
            text = file.read_text()
            if text.count(mutant.before) < 1:
                result = "the text it replaces is gone"
            else:
                file.write_text(text.replace(mutant.before, mutant.after))
                result = verdict(source, build)
                file.write_text(text)
            failures += not result.startswith("caught")
            print(f"| {mutant.name} | {mutant.file} | {result} |", flush=True)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
