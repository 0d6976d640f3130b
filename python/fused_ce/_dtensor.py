# SPDX-License-Identifier: BSD-3-Clause
"""The losses of DTensors, whose classes or rows are shared out over a mesh of processes.

The operators see each process's own part. What is shared out by classes takes an exchange
(:mod:`fused_ce.distributed`); of rows that are shared out, sums and means are over all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor.placement_types import Placement

_ops = torch.ops.fused_ce
_STATS, _LINEAR_STATS = (
    _ops.parallel_cross_entropy_stats,
    _ops.parallel_linear_cross_entropy_stats,
)
_ALL = range(6)  # loss, z_loss, lse, entropy, prediction, confidence
# Which operator exchanges, and which of its results are the other's.
_PARALLEL: dict[Any, tuple[Any, Any]] = {
    _ops.cross_entropy: (_STATS, (0,)),
    _ops.cross_entropy_stats: (_STATS, _ALL),
    _ops.predict: (_STATS, (4, 5, 2, 3)),
    _ops.linear_cross_entropy: (_LINEAR_STATS, (0,)),
    _ops.linear_cross_entropy_stats: (_LINEAR_STATS, _ALL),
}
# Before any trace, which does not know what these are.
_NAMES = {
    operator: tuple(argument.name for argument in operator.default._schema.arguments)
    for operator in _PARALLEL
}


def is_any(values: Any) -> bool:
    """Whether one of the values is a DTensor; where nobody has imported them, none is."""
    module = getattr(torch.distributed, "tensor", None)
    return module is not None and any(isinstance(value, module.DTensor) for value in values)


class _Layout(NamedTuple):
    """How logits lie on a mesh: their placements, and those of what has one number a row."""

    mesh: DeviceMesh
    logits: list[Placement]
    rows: list[Placement]

    def class_axis(self) -> int | None:
        """The dimension of the mesh over which the classes are shared out."""
        for axis, (logits, rows) in enumerate(zip(self.logits, self.rows, strict=True)):
            if logits.is_shard() and not rows.is_shard():
                return axis
        return None

    def row_axes(self) -> list[int]:
        return [axis for axis, rows in enumerate(self.rows) if rows.is_shard()]

    def of_classes(self) -> list[Placement]:
        """The placements of what has one number a class, or one row."""
        from torch.distributed.tensor import Replicate, Shard

        axis = self.class_axis()
        return [Shard(0) if a == axis else Replicate() for a in range(self.mesh.ndim)]


def call(operator: Any, *arguments: Any, **named: Any) -> Any:
    """The operator, some of whose arguments are DTensors, as its results are then.

    A plain tensor is what every process has; or its own part, where it has that one's shape.
    """
    values = dict(zip(_NAMES[operator], arguments, strict=False)) | named
    if values.pop("in_place", False):
        raise RuntimeError("in_place: of a DTensor, the gradient does not overwrite the logits")
    linear = "linear_weight" in values
    layout, shape = _linear_layout(values) if linear else _layout(values)
    class_dim = len(shape) - 1 if linear or len(shape) == 1 else 1
    rows_shape = torch.Size(shape[:class_dim] + shape[class_dim + 1 :])
    if operator is _ops.predict:  # as it does itself: every row counts
        values["target"] = torch.zeros(
            rows_shape, dtype=torch.uint8, device=layout.mesh.device_type
        )
        values |= dict.fromkeys(("return_lse", "return_entropy", "return_prediction"), True)
        values["reduction"] = 0

    def localize(
        name: str, whole: torch.Size, placements: list[Placement], in_parts: bool = False
    ) -> None:
        if isinstance(values.get(name), Tensor):
            values[name] = _local(values[name], whole, layout, placements, in_parts)

    target = values["target"]
    if isinstance(target, Tensor) and target.shape == shape:
        localize("target", shape, layout.logits)
    else:
        localize("target", rows_shape, layout.rows)
    localize("row_weight", rows_shape, layout.rows)
    localize("weight", shape[class_dim : class_dim + 1], layout.of_classes())
    localize("normalizer", torch.Size(), [_replicate()] * layout.mesh.ndim)
    if linear:
        localize("self", values["self"].shape, layout.rows)
        for name in ("linear_weight", "linear_bias"):
            if values.get(name) is not None:
                localize(name, values[name].shape, layout.of_classes(), in_parts=True)
    else:
        localize("self", shape, layout.logits)

    parallel, wanted = _PARALLEL[operator]
    results = parallel(values.pop("self"), **values, **_processes(layout, shape[class_dim]))
    by_row = values.get("reduction", 1) == 0

    def whole(i: int) -> Tensor:
        is_of_rows = by_row or i > 1  # the loss and the z-loss may be reduced
        return _whole(results[i], layout, rows_shape if is_of_rows else None)

    return whole(wanted[0]) if len(wanted) == 1 else tuple(whole(i) for i in wanted)


def _processes(layout: _Layout, classes: int) -> dict[str, Any]:
    """What the operator is told of who has which classes and rows."""
    mesh, axis = layout.mesh, layout.class_axis()
    row_groups = [mesh.get_group(a).group_name for a in layout.row_axes()]
    of_classes: dict[str, Any] = {"first_class": 0, "group_size": 1, "group_name": ""}
    if axis is not None:  # as DTensor shares out: all have as many, but the last
        each = -(-classes // mesh.size(axis))
        of_classes = {
            "first_class": min(each * mesh.get_local_rank(axis), classes),
            "group_size": mesh.size(axis),
            "group_name": mesh.get_group(axis).group_name,
        }
    return {**of_classes, "classes": classes, "row_groups": row_groups}


def _replicate() -> Placement:
    from torch.distributed.tensor import Replicate

    return Replicate()


def _plain_shard(placement: Placement) -> int | None:
    """The dimension that is shared out, in DTensor's own order, or None."""
    from torch.distributed.tensor import Shard

    return placement.dim if type(placement) is Shard else None


def _mesh_of(values: dict[str, Any]) -> DeviceMesh:
    from torch.distributed.tensor import DTensor

    meshes = [value.device_mesh for value in values.values() if isinstance(value, DTensor)]
    if any(mesh != meshes[0] for mesh in meshes):
        raise ValueError(f"the arguments lie on different meshes: {meshes}")
    return meshes[0]


def _placements_of(tensor: Tensor, mesh: DeviceMesh) -> list[Placement]:
    from torch.distributed.tensor import DTensor

    if isinstance(tensor, DTensor):
        return list(tensor.placements)
    return [_replicate()] * mesh.ndim


def _layout(values: dict[str, Any]) -> tuple[_Layout, torch.Size]:
    """Of logits. Their classes are shared out over one dimension of the mesh at most."""
    from torch.distributed.tensor import Shard

    logits, mesh = values["self"], _mesh_of(values)
    class_dim = 1 if logits.dim() > 1 else 0
    layout = _Layout(mesh, [], [])
    has_classes = False
    for placement in _placements_of(logits, mesh):
        dim = _plain_shard(placement)
        if dim is None or (dim == class_dim and has_classes):
            of_logits, of_rows = _replicate(), _replicate()
        elif dim == class_dim:
            has_classes = True
            of_logits, of_rows = Shard(dim), _replicate()
        else:
            of_logits, of_rows = Shard(dim), Shard(dim - (dim > class_dim))
        layout.logits.append(of_logits)
        layout.rows.append(of_rows)
    return layout, logits.shape


def _linear_layout(values: dict[str, Any]) -> tuple[_Layout, torch.Size]:
    """Of the outputs of a layer: its weight shares out the classes, its input the rows."""
    from torch.distributed.tensor import Shard

    input, weight, mesh = values["self"], values["linear_weight"], _mesh_of(values)
    if weight.dim() != 2:
        raise NotImplementedError(f"linear_weight of DTensors must be (C, K), got {weight.shape}")
    shape = torch.Size((*input.shape[:-1], weight.shape[0]))
    layout = _Layout(mesh, [], [])
    has_classes = False
    both = zip(_placements_of(input, mesh), _placements_of(weight, mesh), strict=True)
    for of_input, of_weight in both:
        dim, rows = _plain_shard(of_input), _replicate()
        logits = rows
        if _plain_shard(of_weight) == 0 and not has_classes:
            has_classes = True
            logits = Shard(len(shape) - 1)
        elif dim is not None and dim < input.dim() - 1:
            logits = rows = Shard(dim)
        layout.logits.append(logits)
        layout.rows.append(rows)
    return layout, shape


def _local(
    tensor: Tensor,
    whole: torch.Size,
    layout: _Layout,
    placements: list[Placement],
    in_parts: bool,
) -> Tensor:
    """The part of this process.

    Its gradient is a part likewise; or `in_parts`, of what has no rows and is used for some, one of
    several whose sum it is.
    """
    from torch.distributed.tensor import DTensor, Partial

    if not isinstance(tensor, DTensor):
        if tensor.shape != whole:
            return tensor
        everywhere = [_replicate()] * layout.mesh.ndim
        tensor = DTensor.from_local(tensor, layout.mesh, everywhere, run_check=False)
    grads = list(placements)
    for axis in layout.row_axes() if in_parts else []:
        grads[axis] = Partial()
    local: Tensor = tensor.redistribute(layout.mesh, placements).to_local(grad_placements=grads)
    return local


def _whole(result: Tensor, layout: _Layout, rows: torch.Size | None) -> Tensor:
    """A result as a DTensor: of rows of this shape, or one number that all have."""
    from torch.distributed.tensor import DTensor

    everywhere = [_replicate()] * layout.mesh.ndim
    if rows is None or result.dim() != len(rows):  # the latter: not asked for
        return DTensor.from_local(result, layout.mesh, everywhere, run_check=False)
    strides = torch.empty(rows, device="meta").stride()
    return DTensor.from_local(
        result, layout.mesh, layout.rows, run_check=False, shape=rows, stride=strides
    )
