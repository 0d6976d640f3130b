# SPDX-License-Identifier: BSD-3-Clause
"""What :mod:`fused_ce._slices` finds, as a constant of a call that is traced."""

from typing import Any

import torch
from torch.distributed import distributed_c10d
from torch.utils._python_dispatch import _disable_current_modes

from fused_ce._slices import Own, agreed_slices


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def traced_slices(name: str | None, *own: Any) -> tuple[Any, ...]:
    """The slices of the group of this name, asked for while the call is traced."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        resolve: Any = distributed_c10d._resolve_process_group  # type: ignore[attr-defined]
        group = None if name is None else resolve(name)
        return tuple(agreed_slices(group, Own(*own)))
