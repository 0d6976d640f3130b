# SPDX-License-Identifier: BSD-3-Clause
"""What the library was built from, and what it runs on."""

from typing import Literal, TypedDict

__all__ = ["BuildInfo"]


class BuildInfo(TypedDict):
    """What :func:`fused_ce.build_info` returns."""

    version: str
    """Of fused_ce."""
    torch: str
    """The torch it was compiled against."""
    compiler: str
    cpu_capability: str
    """The instruction set in use, ``"default"``, ``"avx2"``, ``"avx512"`` or ``"avx512_bf16"``. The
    environment variable ``FUSED_CE_CPU_CAPABILITY`` lowers it, read once."""
    cpu_capabilities: list[str]
    """Those that this build has and this machine runs."""
    bfloat16_products: Literal["bfloat16", "float32"]
    """What :func:`fused_ce.linear_cross_entropy` multiplies bfloat16 in on the CPU: ``"bfloat16"``
    where the processor has instructions for it, ``"float32"`` elsewhere, a block of the layer's
    weight at a time."""
    openmp: bool
    """Whether calls use torch's threads."""
    cuda: bool
    """Whether CUDA kernels were built."""
    cuda_version: str
    """Of the toolkit that compiled them, or ``""``."""
    cuda_architectures: list[str]
    """What they were compiled for, as in ``torch.cuda.get_arch_list()``: ``sm_90`` is machine code,
    ``compute_120`` is PTX, which newer GPUs translate."""
