# SPDX-License-Identifier: BSD-3-Clause
"""Whether an installed fused_ce computes, where there is torch and nothing else that it could use.

    build/sdist-venv/bin/python -I tests/wheel/installed.py

-I: neither this folder nor the environment's paths can supply what the package lacks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fused_ce
import fused_ce.__main__ as command


def main() -> None:
    package = Path(fused_ce.__file__).parent
    assert package.is_relative_to(sys.prefix), f"{package} is not of this environment"
    assert (Path(fused_ce.cmake_prefix_path) / "include/fused_ce.h").exists()

    sys.exit(command.main())  # computes, in each dtype, beside torch


if __name__ == "__main__":
    main()
