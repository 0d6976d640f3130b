"""ONNX does not have this operator: torch.onnx.export gets torch's composition in its place.

Its two exporters are met at different places. ``dynamo=True`` takes a graph of torch.export apart,
operator by operator: the operator falls apart into torch's, whoever called it. ``dynamo=False``
translates what torch.jit.trace recorded, and no operator falls apart there: our function has to
call the composition.
"""

import functools

import torch
from torch import Tensor
from torch._C import DispatchKey

_operator = torch.ops.fused_ce.cross_entropy.default
_COMPOSITE = DispatchKey.CompositeImplicitAutograd


def composition(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *options: object,
    **named: object,
) -> Tensor:
    """torch's log_softmax, nll_loss and so on, which the exporters translate.

    They translate torch's loss as a whole, too, but forget its label smoothing (``dynamo=True``) or
    refuse it, and take probabilities for class indices.
    """
    # Autocast knows the loss as a whole, not its parts.
    if torch.is_autocast_enabled(input.device.type):
        input, target = _full(input), _full(target)
        weight = None if weight is None else _full(weight)
    if not target.is_floating_point():
        target = target.long()  # torch's takes no class indices of 32 bits
    loss: Tensor = torch.ops.aten.cross_entropy_loss.default._op_dk(
        _COMPOSITE, input, target, weight, *options, **named
    )
    return loss


def _full(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def in_torchscript_export() -> bool:
    # torch.onnx is imported by a trace, not by us; torch.compile takes is_tracing for a constant.
    tracing: bool = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing and torch.onnx.is_in_onnx_export()


def _kernel(key: DispatchKey, *args: object, **kwargs: object) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        loss: Tensor = composition(*args, **kwargs)  # type: ignore[arg-type]
    else:
        loss = _operator._op_dk(key, *args, **kwargs)
    return loss


# Python kernels are for tracers of graphs alone, and no other call comes here. They stand for the
# C++ kernels that take the operator apart.
for _key in (_COMPOSITE, DispatchKey.AutocastCPU, DispatchKey.AutocastCUDA):
    _operator.py_kernels.pop(_key, None)  # of an import before this one
    _operator.py_impl(_key)(functools.partial(_kernel, _key))
