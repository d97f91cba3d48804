"""`plan`: each request with its tags and the time it is expected to take, without connecting."""

from __future__ import annotations

from edge_agent.points import ModbusBus, ModbusDevice, OpcUaDevice, Plan
from protocols.modbus.requests import Cost, data_bytes
from protocols.timebase import US


def lines(plan: Plan) -> list[str]:
    """One line for each connection, device, request and tag."""
    found = []
    for bus in plan.buses:
        settings = bus.settings
        if isinstance(bus, ModbusBus):
            found.append(f"connection {settings.name}: {bus.settings.where}")
            for device in bus.devices:
                found += _modbus_requests(plan, device, bus.settings.cost())
        else:
            found.append(f"connection {settings.name}: {bus.settings.endpoint}")
            for group in bus.devices:
                found += _nodes(plan, group)
    return found


def summary(plan: Plan) -> str:
    """How much there is of everything, in one line."""
    devices = sum(len(bus.devices) for bus in plan.buses)
    requests = sum(len(device.requests) for bus in plan.buses if isinstance(bus, ModbusBus) for device in bus.devices)
    return (
        f"{len(plan.schema.points)} points of {devices} devices on {len(plan.buses)} connections, "
        f"{requests} Modbus requests per cycle"
    )


def _modbus_requests(plan: Plan, device: ModbusDevice, cost: Cost) -> list[str]:
    points, tags = plan.schema.points, device.tags
    found = [f"  device {device.name}: unit_id {device.unit_id}, every {device.timing.interval_us / US:g} s"]
    for request in device.requests:
        expected_ms = 1000 * cost.seconds(1, data_bytes(request.table, request.count))
        last = request.address + request.count - 1
        found.append(f"    {request.table} {request.address} to {last}, about {expected_ms:.1f} ms")
        for position in request.fields:
            tag = tags[position]
            found.append(f"      {tag.field.name} [{points[tag.index].unit}]: {tag.field.address} {tag.field.type}")
    return found


def _nodes(plan: Plan, group: OpcUaDevice) -> list[str]:
    found = [f"  device {group.name}: every {group.timing.interval_us / US:g} s"]
    points = plan.schema.points
    for tag in group.tags:
        point = points[tag.index]
        found.append(f"    {point.tag} [{point.unit}]: {tag.node}")
    return found
