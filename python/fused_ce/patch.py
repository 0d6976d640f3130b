# SPDX-License-Identifier: BSD-3-Clause
"""Into code that calls torch's losses, without editing it."""

import threading
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar

import torch
import torch.nn.functional as F

from fused_ce.functional import cross_entropy
from fused_ce.linear import linear_cross_entropy
from fused_ce.modules import CrossEntropyLoss, LinearCrossEntropyLoss

__all__ = ["patch_torch", "replace_modules"]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "cross_entropy": cross_entropy,
    "linear_cross_entropy": linear_cross_entropy,
}
_MODULES: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.CrossEntropyLoss: CrossEntropyLoss
}
if hasattr(torch.nn, "LinearCrossEntropyLoss"):  # since torch 2.13
    _MODULES[torch.nn.LinearCrossEntropyLoss] = LinearCrossEntropyLoss


def replace_modules(model: torch.nn.Module) -> int:
    """Make ours of every :class:`torch.nn.CrossEntropyLoss` in a model, in place.

    The modules stay the objects they are, with their options, weights, hooks and names in the
    ``state_dict``; what changes is their class. So every reference to one sees it, and ``model``
    may itself be a loss. :class:`torch.nn.LinearCrossEntropyLoss` becomes
    :class:`fused_ce.LinearCrossEntropyLoss` in the same way.

    Left alone are classes derived from these, which may compute something else (such as those that
    ``fully_shard`` makes: replace before), scripted modules, and losses that are no submodules:
    those in lists, or made within ``forward``, as many models have them. :class:`patch_torch`
    reaches these.

    Args:
        model: any module.

    Returns:
        How many modules were replaced; 0 where there are none, or all are ours.

    Raises:
        TypeError: ``model`` is not a :class:`torch.nn.Module`.

    Example::

        >>> model = torch.nn.ModuleDict({"criterion": torch.nn.CrossEntropyLoss()})
        >>> fused_ce.replace_modules(model)
        1
        >>> type(model["criterion"])
        <class 'fused_ce.modules.CrossEntropyLoss'>
    """
    if not isinstance(model, torch.nn.Module):
        raise TypeError(
            "replace_modules(): argument 'model' must be a torch.nn.Module, not "
            f"{type(model).__name__}"
        )
    theirs = [module for module in model.modules() if type(module) in _MODULES]
    for module in theirs:
        module.__class__ = _MODULES[type(module)]
    return len(theirs)


class patch_torch:  # noqa: N801  (used as a function is)
    """Let ``torch.nn.functional.cross_entropy`` be ours, in the whole process.

    And with it all that calls it: :class:`torch.nn.CrossEntropyLoss`, models that make one within
    their ``forward``, the training scripts of other libraries. So is ``linear_cross_entropy``,
    where torch has one. Within a block, or from one call to another::

        with fused_ce.patch_torch():
            train(model)

        fused_ce.patch_torch.enable()
        train(model)
        fused_ce.patch_torch.disable()

    It is in place in all threads, from the first block that is entered or ``enable()``, until the
    last one has ended and ``disable()`` was called. Two attributes of a module are all that
    changes: no other call of torch is slower, and ``torch.nn.functional.cross_entropy`` says whose
    it is (``__module__``).

    What looks for torch's function by its identity finds ours: ``__torch_function__`` is handed
    :func:`fused_ce.cross_entropy`, as of a call of it, and pickle refuses torch's. Names that were
    bound before, by ``from torch.nn.functional import cross_entropy``, stay torch's: enable it
    before such an import. What ``torch.compile`` has compiled is compiled again, but for functions
    that make an :class:`torch.nn.CrossEntropyLoss` within: they keep what was in place at their
    first call, as scripted functions do. Processes that are spawned, not forked, start without it.

    Warns:
        UserWarning: another function was put in torch's place in the meantime, which stays.

    Example::

        >>> criterion = torch.nn.CrossEntropyLoss()
        >>> logits = torch.tensor([[3.2, 0.2, 0.9]], requires_grad=True)
        >>> with fused_ce.patch_torch():
        ...     loss = criterion(logits, torch.tensor([2]))
        >>> loss.grad_fn.name()
        'fused_ce::CrossEntropyBackward'
    """

    _lock = threading.Lock()
    _blocks = 0
    _switched_on = False
    _in_place = False
    # What was there before. Kept for good: who saved ours while it was there may put it back later.
    _torchs: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __enter__(self) -> None:
        with patch_torch._lock:
            patch_torch._blocks += 1
            patch_torch._update()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with patch_torch._lock:
            patch_torch._blocks -= 1
            left = patch_torch._update()
        if error is None:  # which a warning that is an error would hide
            _warn(left)

    @staticmethod
    def enable() -> None:
        """Put it in place; a second time changes nothing."""
        with patch_torch._lock:
            patch_torch._switched_on = True
            patch_torch._update()

    @staticmethod
    def disable() -> None:
        """Undo :meth:`enable`. Blocks that are running keep it in place to their ends."""
        with patch_torch._lock:
            patch_torch._switched_on = False
            left = patch_torch._update()
        _warn(left)

    @staticmethod
    def is_enabled() -> bool:
        """Whether ``torch.nn.functional.cross_entropy`` is ours."""
        return F.cross_entropy is cross_entropy

    @staticmethod
    def _update() -> list[str]:
        """Put in place what is wanted; the names of functions that are neither ours nor torch's."""
        wanted = patch_torch._switched_on or patch_torch._blocks > 0
        was_in_place, patch_torch._in_place = patch_torch._in_place, wanted
        left = []
        for name, ours in _FUNCTIONS.items():
            found = getattr(F, name, None)  # torch before 2.13 has no linear_cross_entropy
            if wanted and not was_in_place and found not in (None, ours):
                patch_torch._torchs[name] = found
                setattr(F, name, ours)
            elif not wanted and found is ours:
                setattr(F, name, patch_torch._torchs.get(name, ours))
            elif was_in_place and not wanted and found is not patch_torch._torchs.get(name):
                left.append(name)
        return left


def _warn(left: list[str]) -> None:
    for name in left:
        warnings.warn(
            f"torch.nn.functional.{name} was replaced by another function while "
            "fused_ce.patch_torch was in place, and is left as it is",
            stacklevel=3,
        )
