"""A control system: named totals, rates and running states of the plant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from device_sims.kinds.base import ServerKind, Value

if TYPE_CHECKING:
    from device_sims.config import Node
    from device_sims.plant.layout import Layout


def _bind(node: Node, layout: Layout) -> Value:
    where = f"node {node.id!r}"
    if node.value == "running":
        machine = layout.machine(node.of, where)
        return lambda moment: moment.running(machine)
    column = layout.column(node.of, where)
    if node.value == "rate":
        return lambda moment: moment.rate(column)
    start, modulus = node.start, node.modulus
    if modulus is None:
        return lambda moment: moment.total(column) + start
    return lambda moment: (moment.total(column) + start) % modulus


KIND = ServerKind("dcs", _bind)
