# SPDX-License-Identifier: BSD-3-Clause
"""fused_ce: cross entropy with logits for PyTorch, fused, as a drop-in.

``import fused_ce`` loads ``libfused_ce.so``, which registers ``torch.ops.fused_ce.cross_entropy``,
``cross_entropy_stats``, ``predict``, ``linear_cross_entropy`` and ``linear_cross_entropy_stats``.
"""

import ctypes
from pathlib import Path

import torch

__version__ = "0.2.0"

_PACKAGE = Path(__file__).resolve().parent
_REBUILD = "rebuild it for this one: pip install --no-build-isolation --force-reinstall --no-deps ."


def _load_library() -> None:
    library = _PACKAGE / "lib" / "libfused_ce.so"
    if not library.exists():
        raise ImportError(
            f"fused_ce is not built: {library} does not exist. "
            "In its repository, run: pip install --no-build-isolation ."
        )
    try:
        torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
    except OSError as error:
        raise ImportError(
            f"{library} does not load into torch {torch.__version__} ({error.__cause__ or error}); "
            f"it was probably built for another torch: {_REBUILD}"
        ) from error
    load_error = ctypes.CDLL(str(library)).fused_ce_load_error
    load_error.restype = ctypes.c_char_p
    if message := load_error().decode():
        raise ImportError(message)


def _check_torch() -> None:
    # A library built for another minor version may load, and then read tensors at wrong offsets.
    built = str(_C.build_info()["torch"])
    if built.split(".")[:2] != torch.__version__.split(".")[:2]:
        raise ImportError(
            f"fused_ce was built with torch {built}, but this is torch {torch.__version__}: "
            f"{_REBUILD}"
        )


_load_library()

from fused_ce import _C  # noqa: E402  (it links the library that was just loaded)

_check_torch()

import fused_ce._flops  # noqa: E402  (registers its formulas)
import fused_ce._vmap_linear  # noqa: E402, F401  (registers its rules, and _vmap's)
from fused_ce import distributed  # noqa: E402
from fused_ce._build_info import BuildInfo  # noqa: E402
from fused_ce.causal_lm import causal_lm_loss, linear_causal_lm_loss  # noqa: E402
from fused_ce.functional import cross_entropy  # noqa: E402
from fused_ce.linear import linear_cross_entropy, linear_cross_entropy_stats  # noqa: E402
from fused_ce.modules import (  # noqa: E402
    CrossEntropyLoss,
    CrossEntropyStatsLoss,
    LinearCrossEntropyLoss,
)
from fused_ce.patch import patch_torch, replace_modules  # noqa: E402
from fused_ce.stats import (  # noqa: E402
    CrossEntropyStats,
    Prediction,
    cross_entropy_stats,
    predict,
)

cmake_prefix_path: str = str(_PACKAGE)
"""For C++: ``cmake -DCMAKE_PREFIX_PATH="<this>;<torch.utils.cmake_prefix_path>"``."""


def build_info() -> BuildInfo:
    """What the library was built from, and what it runs on: a new dictionary."""
    return _C.build_info()


def empty_cache() -> None:
    """Give back to the system the memory that is kept for the next gradient.

    On Linux, when a gradient of 4 MB or more on the CPU is freed, its memory is kept, for the next
    one to find its pages there: one block a process. The system may take the pages of an idle block
    whenever it needs them, so this is for programs that want :func:`kept_bytes` to be 0, or want it
    now. ``FUSED_CE_KEEP_MEMORY=0`` in the environment (read once) keeps nothing, and neither does a
    process whose address space is limited (``ulimit -v``).
    """
    _C.empty_cache()


def kept_bytes() -> int:
    """The size of what is kept at the moment: in this process, and not in use."""
    return _C.kept_bytes()


__all__ = [
    "BuildInfo",
    "CrossEntropyLoss",
    "CrossEntropyStats",
    "CrossEntropyStatsLoss",
    "LinearCrossEntropyLoss",
    "Prediction",
    "__version__",
    "build_info",
    "causal_lm_loss",
    "cmake_prefix_path",
    "cross_entropy",
    "cross_entropy_stats",
    "distributed",
    "empty_cache",
    "kept_bytes",
    "linear_causal_lm_loss",
    "linear_cross_entropy",
    "linear_cross_entropy_stats",
    "patch_torch",
    "predict",
    "replace_modules",
]
