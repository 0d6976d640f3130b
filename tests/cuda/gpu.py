# SPDX-License-Identifier: BSD-3-Clause
"""`make gpu`: all that needs a GPU, within ten minutes and without a network.

Builds for this machine's GPU alone, runs the tests on it, times the kernels, and runs them under
compute-sanitizer where that is installed. Each is a stage: a command that has so long, the most
wanted first. What became of each is in benchmarks/results/gpu.json as soon as it ends, so that one
that fails, or takes too long, loses nothing of the others. It ends with a table of what was
measured beside what was modelled. Nothing is installed: a stage says what this Python lacks. And
nothing stays behind, but for the result and for build/gpu: no process, no cache.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import modelled
from gpu_report import report

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu"
RESULT = ROOT / "benchmarks" / "results" / "gpu.json"
TOTAL = 590.0  # seconds

PYTEST = ["-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short"]
TESTS = ROOT / "tests" / "python"
# Of our kernels alone; torch handles what calls to CUDA itself return.
SANITIZER = ["compute-sanitizer", "--kernel-name", "kernel_substring=fused_ce"]
SANITIZER += ["--report-api-errors", "no", "--error-exitcode", "9"]
SANITIZED = [
    *(str(TESTS / name) for name in ("test_parity.py", "test_cuda.py")),
    *("-k", "(tail and (18 or 129 or 1025)) or same_bits"),
]


@dataclass
class Stage:
    name: str
    command: list[str]
    seconds: float  # that are kept for it; what others leave is its own too
    environment: dict[str, str] = field(default_factory=dict)
    modules: list[str] = field(default_factory=list)  # without which it cannot run
    tool: str = ""  # without which it is skipped
    outcome: str = ""
    took: float = 0.0
    output: str = ""

    def run(self, seconds: float) -> None:
        """Its outcome is `passed`, or says what is wrong."""
        lacking = [m for m in self.modules if importlib.util.find_spec(m) is None]
        if self.tool and shutil.which(self.tool) is None:
            self.outcome = f"skipped: no {self.tool}"
        elif lacking:
            self.outcome = f"failed: this Python has no {', '.join(lacking)}"
        elif seconds < 1:
            self.outcome = "failed: no time is left"
        else:
            self._execute(seconds)

    def _execute(self, seconds: float) -> None:
        log = FOLDER / f"{self.name}.log"
        start = time.monotonic()
        with log.open("w") as file:
            process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                code = process.wait(seconds)
                self.outcome = "failed: exit status " + str(code) if code else "passed"
            except subprocess.TimeoutExpired:
                self.outcome = f"failed: not done after {seconds:.0f} s"
            finally:  # also where this process is told to end
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                process.wait()
        self.took = time.monotonic() - start
        # Without what names this machine's folders. Of pytest, the last line says what was skipped.
        text = log.read_text(errors="replace").replace(f"{ROOT}/", "")
        text = text.replace(sys.executable, "python").strip()
        self.output = text[-8000:] if self.outcome != "passed" else text.split("\n")[-1][-200:]


def benchmark(name: str, seconds: float, built: dict[str, str], *command: str) -> Stage:
    script, *options = command
    return Stage(
        name,
        [
            *(sys.executable, f"benchmarks/{script}", "--device", "cuda"),
            *(*options, "--out", str(FOLDER / f"{name}.json")),
        ],
        seconds,
        built,
        ["rich", "tqdm"],
    )


def stages(architecture: str, scratch: str) -> list[Stage]:
    caches = ["TMPDIR", "XDG_CACHE_HOME", "TRITON_HOME", "TRITON_CACHE_DIR", "CUDA_CACHE_PATH"]
    own = dict.fromkeys([*caches, "HYPOTHESIS_STORAGE_DIRECTORY"], scratch)
    own |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    build = {
        **own,
        "FORCE_CUDA": "1",
        "FUSED_CE_BUILD_DIR": str(FOLDER / "cmake"),
        "TORCH_CUDA_ARCH_LIST": architecture,
    }
    built = {**own, "PYTHONPATH": str(FOLDER / "package")}
    # Each tensor is an allocation of its own, whose ends memcheck knows.
    sanitized = {**built, "FUSED_CE_DEVICE": "cuda", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Most of the time goes into processes of their own, which pytest-xdist runs side by side.
    together = ["-n", "4"] if importlib.util.find_spec("xdist") else []
    setup = [sys.executable, "setup.py", "--quiet", "build", "--build-lib", str(FOLDER / "package")]
    tests = [sys.executable, *PYTEST, *together, str(TESTS / "test_cuda.py")]
    bench = ["bench.py", "--seconds", "0.3", "--limit"]
    quick = ["--quick", "--seconds"]  # nothing compiled
    return [
        Stage("build", setup, 200, build, ["setuptools"]),
        Stage("tests", tests, 150, built, ["pytest", "hypothesis", "numpy"]),
        benchmark("loss", 60, built, *bench, "50"),
        benchmark("features", 40, built, "loss_head.py", *quick, "0.1"),
        benchmark("linear", 30, built, "linear.py", *quick, "0.5"),
        benchmark("compiled", 50, built, *bench, "40", "--peers", "compile"),
        *(
            Stage(
                tool,
                [*SANITIZER, "--tool", tool, sys.executable, *PYTEST, *SANITIZED],
                30,
                sanitized,
                ["pytest"],
                "compute-sanitizer",
            )
            for tool in ("memcheck", "racecheck")
        ),
    ]


def said(*command: str) -> str | None:
    """What a command prints, if it can be run."""
    try:
        result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return result.stdout.strip()


def environment() -> dict[str, Any]:
    import torch

    return {
        "gpu": torch.cuda.get_device_name(),
        "gpus": torch.cuda.device_count(),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "nvcc": said("nvcc", "--version"),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "commit": said("git", "rev-parse", "HEAD"),
    }


def outcomes(stages: list[Stage]) -> list[dict[str, Any]]:
    return [
        {"name": s.name, "outcome": s.outcome, "seconds": round(s.took, 1), "output": s.output}
        for s in stages
        if s.outcome
    ]


def write(environment: dict[str, Any], stages: list[Stage]) -> dict[str, Any]:
    """One file: the loss alone as bench.py has it, for chart.py, the other benchmarks by name."""
    measured = {
        stage.name: json.loads(path.read_text())
        for stage in stages
        if (path := FOLDER / f"{stage.name}.json").exists()
    }
    result = {
        "environment": environment,
        "stages": outcomes(stages),
        **measured.pop("loss", {}),
        **measured,
        "modelled": modelled.of(environment["gpu"]),
    }
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1))
    return result


def run(every: list[Stage], about: dict[str, Any], start: float) -> None:
    for i, stage in enumerate(every):
        kept = sum(later.seconds for later in every[i + 1 :])
        if every[0].outcome not in ("", "passed"):
            stage.outcome = "failed: not built"
        else:
            stage.run(TOTAL - (time.monotonic() - start) - kept)
        print(f"{stage.name}: {stage.outcome} ({stage.took:.0f} s)", flush=True)
        print(stage.output, flush=True)
        write(about, every)


def main() -> int:
    start = time.monotonic()
    try:
        import torch
    except ImportError:
        print(f"error: {sys.executable} has no torch: name another with PYTHON=", file=sys.stderr)
        return 1
    if not torch.cuda.is_available():
        print("error: no GPU", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what is under way is ended with it
    FOLDER.mkdir(parents=True, exist_ok=True)
    about = environment()
    print(f"{about['gpu']}, torch {about['torch']}")
    with tempfile.TemporaryDirectory(prefix="fused_ce-") as scratch:
        every = stages(".".join(map(str, torch.cuda.get_device_capability())), scratch)
        for stage in every:  # of another run
            (FOLDER / f"{stage.name}.json").unlink(missing_ok=True)
        run(every, about, start)
    print(report(write(about, every)))
    print(f"written: {os.path.relpath(RESULT, ROOT)}; all output: {os.path.relpath(FOLDER, ROOT)}")
    return int(any(stage.outcome.startswith("failed") for stage in every))


if __name__ == "__main__":
    sys.exit(main())
