# SPDX-License-Identifier: BSD-3-Clause
"""`make cuda-build`: whether a build with CUDA is complete, as far as can be told without a GPU.

Imports the package, looks for every operator's kernels, and runs a selection of the tests, which
take the CPU kernels of this build.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import fused_ce
import torch

TESTS = Path(__file__).resolve().parents[1] / "python"
SELECTION = ["test_edges.py", "test_errors.py", "test_opinfo.py", "test_properties.py"]

PRIVATE = ["fused_ce::_forward", "fused_ce::_backward"]
KEYS = {
    # Registered for the key itself.
    torch._C._dispatch_has_kernel_for_dispatch_key: [
        *((op, key) for op in PRIVATE for key in ("CUDA", "CPU", "Meta", "Autograd")),
        ("fused_ce::cross_entropy", "AutocastCUDA"),
        ("fused_ce::cross_entropy", "AutocastCPU"),
        ("fused_ce::cross_entropy", "CompositeImplicitAutograd"),
    ],
    # What the dispatcher makes of it: an alias such as Autograd counts.
    torch._C._dispatch_has_computed_kernel_for_dispatch_key: [
        *((op, key) for op in PRIVATE for key in ("AutogradCUDA", "AutogradCPU")),
        *(("fused_ce::cross_entropy", key) for key in ("CUDA", "CPU", "Meta", "AutogradCUDA")),
    ],
}


def main() -> int:
    info = fused_ce.build_info()
    print(f"{Path(fused_ce.__file__).parent}: {info}")
    assert info["cuda"] is True
    assert str(info["cuda_version"]).split(".")[0] == str(torch.version.cuda).split(".")[0]
    assert info["cuda_architectures"]
    for has_kernel, expected in KEYS.items():
        for op, key in expected:
            assert has_kernel(op, key), f"{op} has no kernel for {key}"
    print("the kernels of every operator are registered for CUDA, CPU, Meta, Autograd and Autocast")
    if not torch.cuda.is_available():
        print("no GPU: the CUDA kernels were not run here")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    return subprocess.call([*command, *(str(TESTS / name) for name in SELECTION)])


if __name__ == "__main__":
    sys.exit(main())
