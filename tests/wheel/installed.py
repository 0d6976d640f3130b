# SPDX-License-Identifier: BSD-3-Clause
"""Whether an installed fused_ce computes, where there is torch and nothing else that it could use.

    build/sdist-venv/bin/python -I tests/wheel/installed.py

-I: neither this folder nor the environment's paths can supply what the package lacks.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fused_ce
import torch
import torch.nn.functional as F


def main() -> None:
    package = Path(fused_ce.__file__).parent
    assert package.is_relative_to(sys.prefix), f"{package} is not of this environment"
    assert (Path(fused_ce.cmake_prefix_path) / "include/fused_ce.h").exists()

    logits = torch.randn(64, 1000, requires_grad=True)
    target = torch.randint(1000, (64,))
    ours, theirs = (f(logits, target) for f in (fused_ce.cross_entropy, F.cross_entropy))
    torch.testing.assert_close(ours, theirs)
    (our_grad,), (their_grad,) = (torch.autograd.grad(loss, logits) for loss in (ours, theirs))
    torch.testing.assert_close(our_grad, their_grad)
    print(f"{package}: computes as torch {torch.__version__} does; {fused_ce.build_info()}")


if __name__ == "__main__":
    main()
