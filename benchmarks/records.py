"""What accuracy.py writes down of the worst rows."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
MEASURES = {
    "loss": "a row's loss",
    "target": "gradient at the target",
    "others": "gradient elsewhere",
}


def of_torch(records: list[Record]) -> list[Record]:
    return [r for r in records if r["by"] == "torch"]


def of_ours(records: list[Record]) -> list[Record]:
    """Of fused_ce, at whatever instruction set."""
    return [r for r in records if r["by"] != "torch"]


def worst(records: list[Record], measure: str) -> float | None:
    """None where nothing was measured: probabilities have no target."""
    return max((r[measure]["ulp"] for r in records if measure in r), default=None)
