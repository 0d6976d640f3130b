from torch import Tensor

def build_info() -> dict[str, object]: ...
def cross_entropy(
    input: object,
    target: object,
    weight: object,
    ignore_index: object,
    reduction: object,
    label_smoothing: object,
    /,
) -> Tensor | None: ...
def empty_cache() -> None: ...
def kept_bytes() -> int: ...
def module_cross_entropy(
    input: object, target: object, attributes: dict[str, object], /
) -> Tensor | None: ...
