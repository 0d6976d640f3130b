# SPDX-License-Identifier: BSD-3-Clause
from torch import Tensor

from fused_ce._build_info import BuildInfo

_Optional = Tensor | None
_Stats = tuple[Tensor, _Optional, _Optional, _Optional, _Optional, _Optional]

def build_info() -> BuildInfo: ...
def cross_entropy(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    label_smoothing: object,
    /,
) -> Tensor | None: ...
def cross_entropy_stats(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    label_smoothing: object,
    logit_scale: object,
    softcap: object,
    temperature: object,
    z_loss_weight: object,
    row_weight: object,
    normalizer: object,
    dtype: object,
    in_place: object,
    return_lse: object,
    return_entropy: object,
    return_prediction: object,
    /,
) -> _Stats | None: ...
def empty_cache() -> None: ...
def kept_bytes() -> int: ...
def module_cross_entropy(
    input: object, target: object, attributes: dict[str, object], /
) -> Tensor | None: ...
def module_cross_entropy_stats(
    input: object,
    target: object,
    row_weight: object,
    normalizer: object,
    attributes: dict[str, object],
    /,
) -> _Stats | None: ...
