# SPDX-License-Identifier: BSD-3-Clause
"""What accuracy.py writes down of the worst rows."""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]
MEASURES = {
    "loss": "a row's loss",
    "target": "gradient at the target",
    "others": "gradient elsewhere",
}
STATISTICS = {
    "entropy": "entropy",
    "entropy, gradient at the largest": "gradient of the entropy at the largest class",
    "entropy, gradient elsewhere": "gradient of the entropy elsewhere",
    "lse": "log-sum-exp, in ulp of the larger of it and the largest logit",
    "lse, plain": "the same in ulp of itself, however near 0",
    "z-loss": "z-loss",
    "z-loss, gradient": "gradient of the z-loss",
    "confidence": "probability of the prediction",
    "capped lse": "a capped logit",
    "capped loss": "a row's loss of capped logits, an ulp of each of them included",
    "capped loss, plain": "the same in ulp of the loss alone",
}


def of_torch(records: list[Record]) -> list[Record]:
    return [r for r in records if r["by"] == "torch"]


def of_ours(records: list[Record]) -> list[Record]:
    """Of fused_ce, at whatever instruction set."""
    return [r for r in records if r["by"] != "torch"]


def worst(records: list[Record], measure: str) -> float | None:
    """None where nothing was measured: probabilities have no target."""
    return max((r[measure]["ulp"] for r in records if measure in r), default=None)
