# SPDX-License-Identifier: BSD-3-Clause
"""`make gpu`: all that needs a GPU, within ten minutes and without a network.

Builds for this machine's GPU alone, runs the tests on it, times the kernels, and runs them under
compute-sanitizer where that is installed. Each is a stage: a command that has so long. What became
of each is in benchmarks/results/cuda.json as soon as it ends, so that one that fails, or takes too
long, loses nothing of the others. Nothing is installed: a stage says what this Python lacks.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "gpu"
RESULT = ROOT / "benchmarks" / "results" / "cuda.json"
TIMES = FOLDER / "bench.json"
TOTAL = 590.0  # seconds

PYTEST = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "--tb=short"]
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
                os.killpg(process.pid, signal.SIGKILL)  # what it started, too
                process.wait()
                self.outcome = f"failed: not done after {seconds:.0f} s"
        self.took = time.monotonic() - start
        if self.outcome != "passed":  # without what names this machine's folders
            text = log.read_text(errors="replace")[-8000:]
            self.output = text.replace(f"{ROOT}/", "").replace(sys.executable, "python")


def stages(architecture: str) -> list[Stage]:
    build = {
        "FORCE_CUDA": "1",
        "FUSED_CE_BUILD_DIR": str(FOLDER / "cmake"),
        "TORCH_CUDA_ARCH_LIST": architecture,
    }
    built = {"PYTHONPATH": str(FOLDER / "package"), "PYTHONUNBUFFERED": "1"}
    # Each tensor is an allocation of its own, whose ends memcheck knows.
    sanitized = {**built, "FUSED_CE_DEVICE": "cuda", "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    # Most of the time goes into processes of their own, which pytest-xdist runs side by side.
    together = ["-n", "4"] if importlib.util.find_spec("xdist") else []
    setup = [sys.executable, "setup.py", "--quiet", "build"]
    bench = [sys.executable, "benchmarks/bench.py", "--device", "cuda", "--seconds", "0.4"]
    return [
        Stage(
            "build", [*setup, "--build-lib", str(FOLDER / "package")], 150, build, ["setuptools"]
        ),
        Stage(
            "tests",
            [*PYTEST, *together, str(TESTS / "test_cuda.py")],
            200,
            built,
            ["pytest", "hypothesis", "numpy"],
        ),
        Stage(
            "benchmarks",
            [*bench, "--limit", "90", "--out", str(TIMES)],
            100,
            built,
            ["rich", "tqdm"],
        ),
        *(
            Stage(
                tool,
                [*SANITIZER, "--tool", tool, *PYTEST, *SANITIZED],
                70,
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


def write(environment: dict[str, Any], stages: list[Stage]) -> None:
    """As a result of bench.py, for chart.py, with what became of each stage."""
    times = json.loads(TIMES.read_text()) if TIMES.exists() else {}
    done = [
        {
            "name": stage.name,
            "outcome": stage.outcome,
            "seconds": round(stage.took, 1),
            "output": stage.output,
        }
        for stage in stages
        if stage.outcome
    ]
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"environment": environment, "stages": done, **times}, indent=1))


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
    FOLDER.mkdir(parents=True, exist_ok=True)
    TIMES.unlink(missing_ok=True)
    about = environment()
    print(f"{about['gpu']}, torch {about['torch']}")
    every = stages(".".join(map(str, torch.cuda.get_device_capability())))
    for i, stage in enumerate(every):
        kept = sum(later.seconds for later in every[i + 1 :])
        if every[0].outcome not in ("", "passed"):
            stage.outcome = "failed: not built"
        else:
            stage.run(TOTAL - (time.monotonic() - start) - kept)
        print(f"{stage.name}: {stage.outcome} ({stage.took:.0f} s)", flush=True)
        if stage.outcome.startswith("failed"):
            print(stage.output)
        write(about, every)
    print(f"written: {RESULT.relative_to(ROOT)}; whole output in {FOLDER.relative_to(ROOT)}")
    return int(any(stage.outcome.startswith("failed") for stage in every))


if __name__ == "__main__":
    sys.exit(main())
