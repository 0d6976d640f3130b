# SPDX-License-Identifier: BSD-3-Clause
"""Which of the classes a process has, and whether the processes of a group agree on a call."""

from __future__ import annotations

import contextlib
import hashlib
import operator
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Slices(NamedTuple):
    """The classes of this process, and who has the others."""

    first_class: int
    classes: int
    group_size: int
    group_name: str
    call_id: int  # the same on all processes whose calls are


class Own(NamedTuple):
    """What a process says of itself."""

    classes: int
    first_class: int | None
    all_classes: int | None
    call: str


# By group, what was agreed on: a group's name may come again.
_agreed: weakref.WeakKeyDictionary[ProcessGroup, dict[Own, Slices]] = weakref.WeakKeyDictionary()


def slices_of(
    group: ProcessGroup | None,
    classes: int,
    first_class: int | None,
    all_classes: int | None,
    call: str,
) -> Slices:
    """The slices of a group whose processes all make this call.

    Args:
        group: the processes, or None for all of them.
        classes: how many this process has.
        first_class: which of all classes is its first; None: they lie in the order of the ranks.
        all_classes: how many all have; None: that is asked.
        call: what has to be the same on all.

    Raises:
        ValueError: on every process, with what each has, where they do not fit together.
    """
    if torch.compiler.is_compiling():
        from fused_ce._traced_slices import traced_slices  # dynamo, which takes a second to import

        name = None if group is None else group.group_name
        own = (operator.index(classes), first_class, all_classes, call)
        return Slices(*traced_slices(name, *own))
    return agreed_slices(group, Own(classes, first_class, all_classes, call))


@contextlib.contextmanager
def explained(group: ProcessGroup | None, classes: int, call: str) -> Iterator[None]:
    """Says who has what where an exchange finds that the processes have made different calls."""
    try:
        yield
    except ValueError as error:
        if "different calls" not in str(error):
            raise
        _agree(_group(group), Own(classes, None, None, call))
        raise


def _group(group: ProcessGroup | None) -> ProcessGroup:
    import torch.distributed as dist

    if not dist.is_available() or not dist.is_initialized():
        raise RuntimeError(
            "fused_ce.distributed needs torch.distributed: call "
            "torch.distributed.init_process_group first"
        )
    if group is None:
        return dist.distributed_c10d._get_default_group()
    if not isinstance(group, dist.ProcessGroup):  # torch has a number for groups of others
        raise ValueError("group: this process is not in it")
    return group


def agreed_slices(group: ProcessGroup | None, own: Own) -> Slices:
    """What is known of this call, or else is asked."""
    group = _group(group)
    known = _agreed.setdefault(group, {})
    if own not in known:
        known[own] = _agree(group, own)
    return known[own]


def _agree(group: ProcessGroup, own: Own) -> Slices:
    import torch.distributed as dist

    size, rank = dist.get_world_size(group), dist.get_rank(group)
    everyone: list[Own | None] = [None] * size
    dist.all_gather_object(everyone, own, group=group)
    owns = [Own(*other) for other in everyone if other is not None]
    counts = [other.classes for other in owns]
    firsts = [other.first_class for other in owns]
    if len({other.call for other in owns}) > 1:
        raise ValueError(_who_has_what("calls that differ", [o.call for o in owns]))
    if all(first is None for first in firsts):
        starts = [sum(counts[:r]) for r in range(size)]
    else:
        starts = [-1 if first is None else first for first in firsts]
        end = 0
        for start, count in sorted(zip(starts, counts, strict=True)):
            if start != end and count > 0:
                has = [f"{n} classes from {f} on" for n, f in zip(counts, firsts, strict=True)]
                raise ValueError(_who_has_what("classes with gaps or in common", has))
            end += count
    if own.all_classes not in (None, sum(counts)):
        has = [
            f"{n} classes, of {other.all_classes}" for n, other in zip(counts, owns, strict=True)
        ]
        raise ValueError(_who_has_what("not as many classes as they say", has))
    # Of as many bits as a double holds, in which it goes over the wire.
    call_id = int(hashlib.blake2b(own.call.encode(), digest_size=6).hexdigest(), 16)
    return Slices(starts[rank], sum(counts), size, group.group_name, call_id)


def _who_has_what(what: str, of_ranks: list[str]) -> str:
    lines = "".join(f"\n  rank {rank}: {text}" for rank, text in enumerate(of_ranks))
    return f"fused_ce.distributed: the processes of the group have {what}:{lines}"
