# SPDX-License-Identifier: BSD-3-Clause
"""What the model says of each GPU's calls: `make cuda-model` writes it, `make gpu` shows it beside
what it measures.
"""

from __future__ import annotations

import json
from pathlib import Path

# Per cent of the peak bandwidth: {"H100": {"4096x32000 float32 forward": 92}}.
Figures = dict[str, dict[str, float]]
FILE = Path(__file__).resolve().with_name("model.json")


def name(shape: str, dtype: str, direction: str) -> str:
    """Of a call."""
    return f"{shape} {dtype} {direction}"


def write(figures: Figures) -> None:
    FILE.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n")


def of(gpu: str) -> dict[str, float]:
    """Of this GPU, where it was modelled: NVIDIA A100-SXM4-80GB is an A100 80 GB."""
    figures: Figures = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = [machine for machine in figures if all(word in gpu for word in machine.split())]
    return figures[max(found, key=len)] if found else {}
