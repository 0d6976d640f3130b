# SPDX-License-Identifier: BSD-3-Clause
"""Which documents are older than the CUDA kernels they are made of: `make lint`."""

from __future__ import annotations

import sys
from pathlib import Path

from sass.toolkit import stamp

# What makes each, and the folders that are the tools for it.
DOCUMENTS = {
    "report.md": ("make cuda-report", ["sass"]),
    "model.md": ("make cuda-model", ["sass", "ptx", "model"]),
}


def main() -> int:
    folder = Path(__file__).resolve().parent
    stale = {
        name: command
        for name, (command, tools) in DOCUMENTS.items()
        if stamp(*tools) not in (folder / name).read_text()
    }
    for name, command in stale.items():
        print(f"error: tests/cuda/{name} is older than what it is made of: {command}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
