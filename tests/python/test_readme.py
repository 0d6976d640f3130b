# SPDX-License-Identifier: BSD-3-Clause
"""The Python blocks of the README and of the documents run as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BLOCKS = [
    pytest.param(block, id=f"{page.name}-{i}")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_readme(block: str) -> None:
    exec(block, {})
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
