# SPDX-License-Identifier: BSD-3-Clause
"""``python -m fused_ce``: what it prints, and that it tells a wrong build from a right one."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import fused_ce
import fused_ce.__main__ as command
import pytest
import torch


def test_prints_checks_and_times() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fused_ce"], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    lines = dict(line.split(None, 1) for line in done.stdout.splitlines() if " " in line.strip())
    assert lines["torch"].strip() == fused_ce.build_info()["torch"]
    for dtype in ("float64", "float32", "bfloat16", "float16"):
        assert f"cpu {dtype:14} ok\n" in done.stdout
    assert "cpu 512 x 32000    forward and backward, threads: " in done.stdout


@pytest.mark.parametrize("factor", [1 + 2**-6, float("nan")])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_a_wrong_result_is_told(
    what: str, factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = fused_ce.cross_entropy

    def wrong(*args: Any, **named: Any) -> torch.Tensor:
        if what == "gradient":
            args[0].register_hook(lambda gradient: factor * gradient)
            return right(*args, **named)
        return factor * right(*args, **named)

    monkeypatch.setattr(fused_ce, "cross_entropy", wrong)
    monkeypatch.setattr(command, "times", lambda *_: (1.0, 1.0))
    monkeypatch.setattr(sys, "argv", ["fused_ce"])
    assert command.main() == 1
    assert capsys.readouterr().out.count("WRONG") == 4


def test_build_info_has_its_type() -> None:
    types = fused_ce.BuildInfo.__annotations__
    info = fused_ce.build_info()
    assert info.keys() == types.keys()
    for key, value in info.items():
        plain = {list[str]: list, str: str, bool: bool}.get(types[key])
        assert isinstance(value, plain or str)
    assert info["bfloat16_products"] in ("bfloat16", "float32")
