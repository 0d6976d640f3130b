# SPDX-License-Identifier: BSD-3-Clause
"""`make gpu` where there is no GPU: all of it but the build and the tests, on a stand-in.

So that no line of tests/cuda/gpu.py and of the benchmarks that it calls is run for the first time
on the day a GPU is there. What is measured means nothing.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import cases
import layers
import peers
import pytest
import torch

CUDA = Path(__file__).resolve().parents[1] / "cuda"
sys.path.insert(0, str(CUDA))

import gpu  # noqa: E402
import gpu_report  # noqa: E402
import modelled  # noqa: E402
import stand_in  # noqa: E402

TOO_LARGE = "4x99999999999999"
# In Python's place: it builds nothing, tests nothing, and measures small problems for no time.
PYTHON = f"""#!/bin/sh
case "$1" in
setup.py) exit $BUILD_FAILS;;
-m) echo "3 passed, 1 skipped"; exit 0;;
*/bench.py) set -- "$@" --shapes 96x10 {TOO_LARGE} 2x7x5x5 --dtypes bfloat16;;
*/loss_head.py) set -- "$@" --shapes 96x10 2x7x5x5 --dtypes bfloat16 --threads 1;;
*/linear.py) set -- "$@" --shapes 128x8x400 --dtypes float32 bfloat16 --threads 1;;
esac
exec {sys.executable} {CUDA / "stand_in.py"} "$@" --seconds 0.001
"""
# It runs what it is given, as the real one does, once its own options are over.
SANITIZER = """#!/bin/sh
while [ "${1##*/}" != python ]; do shift; done
"$@"
"""
TOOLS = {
    "python": PYTHON,
    "compute-sanitizer": SANITIZER,
    "nvidia-smi": "#!/bin/sh\necho 580.1\n",
    "nvcc": "#!/bin/sh\nexit 1\n",
}


@pytest.fixture
def _machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With a GPU and its tools; nothing is written elsewhere."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in TOOLS.items():
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
    (tmp_path / "scratch").mkdir()
    for name, value in {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "BUILD_FAILS": "0",
        "OMP_NUM_THREADS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(gpu.tempfile, "tempdir", str(tmp_path / "scratch"))
    monkeypatch.setattr(sys, "executable", str(tools / "python"))
    monkeypatch.setattr(gpu, "FOLDER", tmp_path / "build")
    monkeypatch.setattr(gpu, "RESULT", tmp_path / "results" / "gpu.json")
    monkeypatch.setattr(modelled, "FILE", tmp_path / "model.json")
    for name, value in stand_in.CUDA.items():
        monkeypatch.setattr(torch.cuda, name, value)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def outcomes(result: dict[str, Any]) -> dict[str, str]:
    return {stage["name"]: stage["outcome"] for stage in result["stages"]}


@pytest.mark.slow
@pytest.mark.usefixtures("_machine")
def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = modelled.name("96x10", "bfloat16", "forward")
    modelled.write({"H100": {call: 92}, "H1": {call: 1}, "A100 80 GB": {call: 2}})
    assert gpu.main() == 0, capsys.readouterr().out
    printed = capsys.readouterr().out
    result = json.loads(gpu.RESULT.read_text())
    assert set(outcomes(result).values()) == {"passed"}
    assert result["stages"][1]["output"] == "3 passed, 1 skipped"
    assert result["environment"]["driver"] == "580.1" and result["environment"]["nvcc"] is None
    # As chart.py and linear_report.py read it.
    rows, planes = result["records"]
    libraries = ["liger", "quack", "flash-attn", "apex"]
    timed = ["fused_ce", "eager", "in place", *libraries]
    timed += [f"{name} in place" for name in ("quack", "flash-attn")]
    assert rows["left out"] == {} and sorted(rows["forward+backward"]) == sorted(timed)
    assert sorted(planes["left out"]) == sorted(n for n in timed[3:])
    assert all("compile" in r["forward+backward"] for r in result["compiled"]["records"])
    assert {r["feature"] for r in result["features"]["records"]} >= {"z-loss", "softcap"}
    assert all({"liger", "products"} <= set(r["forward+backward"]) for r in linear_records(result))
    assert [r["left out"] for r in linear_records(result)] == [
        {"quack": "AssertionError: no float32"},
        {},
    ]
    assert all("fused_ce" in r["peak bytes"] for r in result["linear"]["memory"])
    assert f"{TOO_LARGE} bfloat16 is left out" in (gpu.FOLDER / "loss.log").read_text()
    # The table: measured beside modelled.
    lines = [line.split() for line in printed.split("\n")]
    (line,) = (x for x in lines if x[:3] == ["96x10", "bfloat16", "forward"])
    assert line[7] == "92%"
    assert "quack: AssertionError: no float32" in printed
    assert list((tmp_path / "scratch").iterdir()) == []


def linear_records(result: dict[str, Any]) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = result["linear"]["records"]
    return records


@pytest.mark.usefixtures("_machine")
def test_without_a_build_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUILD_FAILS", "3")
    assert gpu.main() == 1
    found = outcomes(json.loads(gpu.RESULT.read_text()))
    assert found.pop("build") == "failed: exit status 3"
    assert len(found) == 7 and set(found.values()) == {"failed: not built"}


@pytest.mark.parametrize(
    ("stage", "seconds", "outcome"),
    [
        (gpu.Stage("a", ["true"], 1), 9, "passed"),
        (gpu.Stage("a", ["true"], 1), 0.5, "failed: no time is left"),
        (gpu.Stage("a", ["true"], 1, tool="no-such-tool"), 9, "skipped: no no-such-tool"),
        (gpu.Stage("a", ["true"], 1, modules=["no_such"]), 9, "failed: this Python has no no_such"),
    ],
    ids=["passed", "late", "tool", "module"],
)
def test_outcomes(
    stage: gpu.Stage, seconds: float, outcome: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    stage.run(seconds)
    assert stage.outcome == outcome


def test_a_stage_ends_with_all_that_it_started(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    started = tmp_path / "started"
    code = f"sleep 100 & echo $! > {started}; echo there; wait"
    stage = gpu.Stage("a", ["sh", "-c", code], 1)
    stage.run(1)
    assert stage.outcome == "failed: not done after 1 s" and stage.output == "there"
    process = Path("/proc") / started.read_text().strip() / "stat"
    deadline = time.monotonic() + 5
    while process.exists() and process.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.01)


def test_where_it_cannot_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main() == 1 and "error: no GPU" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu.main() == 1 and "has no torch" in capsys.readouterr().err


def test_stages_fit_into_ten_minutes() -> None:
    every = gpu.stages("9.0", "scratch")
    assert sum(stage.seconds for stage in every) <= gpu.TOTAL <= 590
    assert [stage.name for stage in every][:3] == ["build", "tests", "loss"]


def test_what_is_modelled_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modelled, "FILE", tmp_path / "model.json")
    assert modelled.of("NVIDIA A100-SXM4-80GB") == {}
    modelled.write({"H100": {}, "A100 80 GB": {"here": 1}})
    assert modelled.of("NVIDIA A100-SXM4-80GB") == {"here": 1}
    assert modelled.of("NVIDIA L4") == {}


def test_what_is_measured_is_modelled() -> None:
    """The file that is kept, by the names of what `make gpu` measures."""
    names = {
        modelled.name(shape, dtype, direction)
        for shape, dtype in product(cases.CUDA, ("float32", "bfloat16"))
        for direction in ("forward", "backward")
    }
    assert modelled.of("NVIDIA H100 80GB HBM3").keys() == names


def test_report_of_nothing() -> None:
    assert gpu_report.report({"environment": {"gpu": "H100"}, "stages": []}) == "H100\n\n"


def test_libraries_that_are_not_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("liger_kernel", "quack", "flash_attn", "apex"):
        monkeypatch.setitem(sys.modules, name, None)
    assert peers.installed() == [] and layers.of_libraries() == {}
    said = capsys.readouterr().out
    assert said.count("is left out: ModuleNotFoundError") == len(peers.LIBRARIES) + 2
