# SPDX-License-Identifier: BSD-3-Clause
"""Plant bugs in the kernels, one at a time, and see that the GoogleTests catch each.

    .venv/bin/python tests/mutation/run.py [--device cpu] [NAME ...]

Works on a copy of the sources; takes about a minute a bug. What became of each is put into
results.md at once, with the commit; rows of other bugs stay. Exits with 1 if one survives.
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

import table
import torch.utils
from mutants import CPU, CUDA

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1800  # seconds that the tests of a bug may take


def run(command: list[str], **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, **kwargs)  # type: ignore[call-overload,no-any-return]


def verdict(build: Path, target: str) -> str:
    built = run(["cmake", "--build", str(build), "--target", target])
    if built.returncode:
        print(built.stdout[-2000:], file=sys.stderr)
        return "does not compile"
    try:
        tests = run([str(next(build.rglob(target))), "--gtest_fail_fast"], timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"undecided after {LIMIT} seconds"
    failed = sorted(set(re.findall(r"\[  FAILED  \] (?:\w+/)?(\w+\.\w+)", tests.stdout)))
    if tests.returncode == 0:
        return "SURVIVED"
    return "caught by " + (", ".join(failed) or f"exit code {tests.returncode}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="only this device's mutants")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only mutants whose name has it")
    arguments = parser.parse_args()
    chosen = [
        (mutant, target)
        for device, mutants, target in (
            ("cpu", CPU, "kernel_tests"),
            ("cuda", CUDA, "cuda_kernel_tests"),
        )
        for mutant in mutants
        if arguments.device in (None, device)
        and (not arguments.names or any(name in mutant.name for name in arguments.names))
    ]
    commit = run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]).stdout
    results = table.read()
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
        for mutant, target in chosen:
            file = source / "kernels" / mutant.file
            text = file.read_text()
            if text.count(mutant.before) < 1:
                result = "the text it replaces is gone"
            else:
                file.write_text(text.replace(mutant.before, mutant.after))
                result = verdict(build, target)
                file.write_text(text)
            failures += not result.startswith("caught")
            print(f"{mutant.file}: {mutant.name}: {result}", flush=True)
            results[table.key(mutant)] = table.Result(result, commit.strip())
            table.write(results)
    return min(failures, 1)


if __name__ == "__main__":
    sys.exit(main())
