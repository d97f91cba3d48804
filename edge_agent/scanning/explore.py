"""Finds the variables of an OPC-UA server, with their paths, types, values and units.

Invariants

- A node is visited once, by the shortest path to it, so loops end; never more nodes than allowed are visited.
- No call has more nodes than the server takes; one that it refuses for its size is halved.
- References that the server gives in parts are fetched to the end.
- Nothing but browse and read services is called.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIdNames, ObjectIds
from asyncua.ua.status_codes import StatusCodes, get_name_and_doc
from asyncua.ua.uaerrors import UaError, UaStatusCodeError

from edge_agent.config import OpcUa
from edge_agent.drivers.opcua_security import make_safe
from edge_agent.drivers.opcua_subscription import TOO_MUCH
from edge_agent.errors import EdgeError
from edge_agent.scanning.errors import ScanError, ScanUsageError
from edge_agent.scanning.paths import Path, in_order
from edge_agent.scanning.space import Space, Variable
from edge_agent.scanning.units import Tell

_log = logging.getLogger(__name__)

_NODES_PER_BROWSE = 100
_MAX_REFERENCES = 1000
"""References of a node in one answer; the rest comes by continuation points."""
_CONNECT_TIMEOUTS = 3
_TELL_S = 2.0
_READ = 1
_WRITE = 2
_CONNECTION_ERRORS = (OSError, asyncio.TimeoutError, UaError)
_UNITS = "EngineeringUnits"
_ALL_FIELDS = 0x3F
_LAST_BUILTIN = 25

Id = tuple[int, Any]
"""What makes a node id: namespace and identifier."""
_T = TypeVar("_T")
_R = TypeVar("_R")


async def scan(settings: OpcUa, start: str, max_nodes: int, tell: Tell) -> Space:
    """Browse a server from a node, and read the variables found.

    Raises
    ------
    ScanUsageError
        If `start` is no node id.
    ScanError
        If there is no connection, it is lost, or the server does not know the node.
    """
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    try:
        node = ua.NodeId.from_string(start)
    except (UaError, ValueError) as error:
        raise ScanUsageError(f"--from {start!r}; allowed: a node id such as ns=2;s=Plant or i=85") from error
    async with _session(settings) as client:
        explorer = _Explorer(client, settings, max_nodes, tell)
        try:
            await explorer.run(node)
        except _CONNECTION_ERRORS as error:
            raise ScanError(f"{settings.endpoint}: while browsing: {_reason(error)}") from error
    return explorer.space


@asynccontextmanager
async def _session(settings: OpcUa) -> AsyncIterator[Client]:
    client = Client(settings.endpoint, timeout=settings.timeout_s, watchdog_intervall=10.0)
    client.name = client.description = "metercarbon edge-agent scan"
    try:
        try:
            await asyncio.wait_for(make_safe(client, settings), _CONNECT_TIMEOUTS * settings.timeout_s)
            await asyncio.wait_for(client.connect(), _CONNECT_TIMEOUTS * settings.timeout_s)
        except (*_CONNECTION_ERRORS, EdgeError) as error:
            raise ScanError(f"cannot connect to {settings.endpoint}: {_reason(error)}") from error
        yield client
    finally:
        try:
            await asyncio.wait_for(client.disconnect(), settings.timeout_s)
        except _CONNECTION_ERRORS as error:
            _log.debug("%s: while closing: %r", settings.endpoint, error)
            client.disconnect_socket()


@dataclass(slots=True)
class _Size:
    """Nodes of a call: how many at first, and how many now."""

    first: int
    now: int

    def limit(self, most: object) -> None:
        """Keep what the server says, if it says anything."""
        if isinstance(most, int) and 0 < most < self.now:
            self.first = self.now = most


class _Explorer:
    def __init__(self, client: Client, settings: OpcUa, max_nodes: int, tell: Tell) -> None:
        self.space = Space(settings)
        self._client = client
        self._max_nodes = max_nodes
        self._tell = tell
        self._told_at = time.monotonic()
        self._per_browse = _Size(_NODES_PER_BROWSE, _NODES_PER_BROWSE)
        self._per_read = _Size(settings.nodes_per_read, settings.nodes_per_read)
        self._refused: Counter[str] = Counter()
        self._units: dict[Id, ua.NodeId] = {}

    async def run(self, start: ua.NodeId) -> None:
        """Browse, then read."""
        await self._ask_limits()
        found = await self._visit(start)
        await self._read_all(found)
        self.space.variables.sort(key=lambda variable: in_order(variable.path))
        self.space.notes += [f"{count} nodes could not be browsed: {name}" for name, count in self._refused.items()]
        if not self.space.complete:
            self.space.notes.append(f"the server has more than --max-nodes {self._max_nodes} nodes; not all were seen")

    async def _ask_limits(self) -> None:
        nodes = [ua.NodeId(ua.Int32(number), ua.Int16(0)) for number in _LIMITS]
        namespaces, *limits = await self._client.uaclient.read(_reading([(node, AttributeIds.Value) for node in nodes]))
        self.space.namespaces = list(_content(namespaces) or ())
        self._per_read.limit(_content(limits[0]))
        self._per_browse.limit(_content(limits[1]))

    # Browsing

    async def _visit(self, start: ua.NodeId) -> list[tuple[Variable, ua.NodeId]]:
        """All variables below a node, level by level."""
        # The server's own state and diagnostics are no plant data, unless asked for.
        seen = {_id(start), (0, int(ObjectIds.Server))}
        level: list[tuple[Path, ua.NodeId]] = [((), start)]
        variables: list[tuple[Variable, ua.NodeId]] = []
        while level:
            deeper: list[tuple[Path, ua.NodeId]] = []
            all_references = await self._browse([node for _, node in level], first=level[0][0] == ())
            for (path, node), references in zip(level, all_references, strict=True):
                for reference in references:
                    target = _local(reference)
                    if target is None:
                        continue
                    if reference.ReferenceTypeId == _HAS_PROPERTY:
                        if reference.BrowseName.Name == _UNITS:
                            self._units[_id(node)] = target
                        continue
                    if _id(target) in seen:
                        continue
                    if self.space.visited == self._max_nodes:
                        self.space.complete = False
                        continue
                    seen.add(_id(target))
                    self.space.visited += 1
                    below = (*path, _name(reference, target))
                    deeper.append((below, target))
                    if reference.NodeClass == ua.NodeClass.Variable:
                        variables.append((Variable(below, target.to_string()), target))
                    else:
                        self.space.objects.append(below)
            level = deeper
        return variables

    async def _browse(self, nodes: list[ua.NodeId], *, first: bool) -> list[list[ua.ReferenceDescription]]:
        """References of nodes, to the end."""
        found: list[list[ua.ReferenceDescription]] = []
        while len(found) < len(nodes):
            begun = len(found)
            block = await self._chunk(nodes[begun:], self._per_browse, self._browse_once, _unbrowsed)
            for number, result in enumerate(block):
                if result.StatusCode.value == StatusCodes.BadNoContinuationPoints:
                    # The server keeps too few of them for a block; alone a node gets one.
                    (result,) = await self._browse_once([nodes[begun + number]])
                if not result.StatusCode.is_good():
                    if first:
                        raise ScanError(
                            f"{self.space.settings.endpoint}: node {nodes[0].to_string()}: {_status(result.StatusCode)}"
                        )
                    self._refused[_status(result.StatusCode)] += 1
                found.append(await self._rest(result))
            if time.monotonic() - self._told_at > _TELL_S:
                self._told_at = time.monotonic()
                self._tell(f"{self.space.visited} nodes found")
        return found

    async def _browse_once(self, nodes: Sequence[ua.NodeId]) -> list[ua.BrowseResult]:
        parameters = ua.BrowseParameters()
        parameters.RequestedMaxReferencesPerNode = ua.Counter(_MAX_REFERENCES)
        for node in nodes:
            wanted = ua.BrowseDescription()
            wanted.NodeId = node
            wanted.BrowseDirection = ua.BrowseDirection.Forward
            wanted.ReferenceTypeId = _HIERARCHICAL
            wanted.NodeClassMask = ua.UInt32(ua.NodeClass.Object | ua.NodeClass.Variable)
            wanted.ResultMask = ua.UInt32(_ALL_FIELDS)
            parameters.NodesToBrowse.append(wanted)
        results: list[ua.BrowseResult] = await self._client.uaclient.browse(parameters)
        return results

    async def _rest(self, result: ua.BrowseResult) -> list[ua.ReferenceDescription]:
        """References of a node, with those that come by continuation points."""
        references = list(result.References or ())
        while result.ContinuationPoint:
            parameters = ua.BrowseNextParameters()
            parameters.ReleaseContinuationPoints = False
            parameters.ContinuationPoints = [result.ContinuationPoint]
            (result,) = await self._client.uaclient.browse_next(parameters)
            if not result.StatusCode.is_good():
                self._refused[_status(result.StatusCode)] += 1
            references += result.References or ()
            if len(references) > self._max_nodes:
                self.space.complete = False
                await self._release(result)
                break
        return references

    async def _release(self, result: ua.BrowseResult) -> None:
        if result.ContinuationPoint:
            parameters = ua.BrowseNextParameters()
            parameters.ReleaseContinuationPoints = True
            parameters.ContinuationPoints = [result.ContinuationPoint]
            await self._client.uaclient.browse_next(parameters)

    # Reading

    async def _read_all(self, found: list[tuple[Variable, ua.NodeId]]) -> None:
        self._tell(f"{self.space.visited} nodes found, {len(found)} variables to read")
        self.space.variables = [variable for variable, _ in found]
        wanted: list[tuple[ua.NodeId, AttributeIds]] = []
        for _, node in found:
            wanted += [(node, attribute) for attribute in _ATTRIBUTES]
        units = [(variable, self._units[_id(node)]) for variable, node in found if _id(node) in self._units]
        wanted += [(node, AttributeIds.Value) for _, node in units]
        answers = await self._read(wanted)
        for number, (variable, _) in enumerate(found):
            start = number * len(_ATTRIBUTES)
            _describe(variable, *answers[start : start + len(_ATTRIBUTES)])
        for (variable, _), answer in zip(units, answers[len(found) * len(_ATTRIBUTES) :], strict=True):
            variable.unit = _unit(_content(answer))

    async def _read(self, wanted: list[tuple[ua.NodeId, AttributeIds]]) -> list[ua.DataValue]:
        found: list[ua.DataValue] = []
        while len(found) < len(wanted):
            found += await self._chunk(wanted[len(found) :], self._per_read, self._read_once, _unread)
        return found

    async def _read_once(self, wanted: Sequence[tuple[ua.NodeId, AttributeIds]]) -> list[ua.DataValue]:
        results: list[ua.DataValue] = await self._client.uaclient.read(_reading(wanted))
        return results

    async def _chunk(
        self,
        wanted: Sequence[_T],
        size: _Size,
        call: Callable[[Sequence[_T]], Awaitable[list[_R]]],
        refused: Callable[[ua.StatusCode], _R],
    ) -> list[_R]:
        """Call for the first part of what is wanted; `refused` answers for what is too large by itself."""
        while True:
            block = wanted[: size.now]
            try:
                found = await call(block)
            except UaStatusCodeError as error:
                if error.code not in TOO_MUCH:
                    raise
                if len(block) == 1:
                    # It was not the number of nodes.
                    size.now = size.first
                    return [refused(ua.StatusCode(ua.UInt32(error.code)))]
                size.now = len(block) // 2
                continue
            if len(found) != len(block):
                raise ScanError(
                    f"{self.space.settings.endpoint}: {len(found)} answers for {len(block)} nodes; allowed: as many"
                )
            return found


def _unbrowsed(status: ua.StatusCode) -> ua.BrowseResult:
    result = ua.BrowseResult()
    result.StatusCode = status
    return result


def _unread(status: ua.StatusCode) -> ua.DataValue:
    made: Any = ua.DataValue
    found: ua.DataValue = made(StatusCode=status)
    return found


def _describe(variable: Variable, value: ua.DataValue, data_type: ua.DataValue, access: ua.DataValue) -> None:
    if value.StatusCode is not None and not value.StatusCode.is_good():
        variable.status = _status(value.StatusCode)
    variant = value.Value
    if variant is not None and variant.VariantType not in (None, ua.VariantType.Null):
        variable.value = variant.Value
        variable.type = variant.VariantType.name + ("[]" if isinstance(variant.Value, list) else "")
    else:
        variable.type = _type_name(_content(data_type))
    bits = _content(access)
    if isinstance(bits, int):
        variable.access = ("r" if bits & _READ else "") + ("w" if bits & _WRITE else "")


def _type_name(node: object) -> str:
    if not isinstance(node, ua.NodeId):
        return "?"
    if node.NamespaceIndex == 0 and isinstance(node.Identifier, int):
        if 0 < node.Identifier <= _LAST_BUILTIN:
            return ua.VariantType(node.Identifier).name
        return str(ObjectIdNames.get(node.Identifier, node.to_string()))
    return node.to_string()


def _unit(found: object) -> str:
    if not isinstance(found, ua.EUInformation):
        return ""
    return (found.DisplayName.Text or "").strip()


def _content(data: ua.DataValue) -> Any:
    good = data.StatusCode is None or data.StatusCode.is_good()
    return data.Value.Value if good and data.Value is not None else None


def _reading(wanted: Sequence[tuple[ua.NodeId, AttributeIds]]) -> ua.ReadParameters:
    parameters = ua.ReadParameters()
    for node, attribute in wanted:
        item = ua.ReadValueId()
        item.NodeId = node
        item.AttributeId = attribute
        parameters.NodesToRead.append(item)
    return parameters


def _id(node: ua.NodeId) -> Id:
    return node.NamespaceIndex, node.Identifier


def _local(reference: ua.ReferenceDescription) -> ua.NodeId | None:
    """Where a reference leads; None if to another server."""
    node = reference.NodeId
    if getattr(node, "ServerIndex", 0) or getattr(node, "NamespaceUri", None):
        return None
    return ua.NodeId(node.Identifier, node.NamespaceIndex, node.NodeIdType)


def _name(reference: ua.ReferenceDescription, node: ua.NodeId) -> str:
    return reference.BrowseName.Name or reference.DisplayName.Text or node.to_string()


def _status(status: ua.StatusCode) -> str:
    return str(get_name_and_doc(status.value)[0])


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "no answer"
    return str(error) or type(error).__name__


_HIERARCHICAL = ua.NodeId(ua.Int32(ObjectIds.HierarchicalReferences), ua.Int16(0))
_HAS_PROPERTY = ua.NodeId(ua.Int32(ObjectIds.HasProperty), ua.Int16(0))
_ATTRIBUTES = (AttributeIds.Value, AttributeIds.DataType, AttributeIds.UserAccessLevel)
_LIMITS = (
    ObjectIds.Server_NamespaceArray,
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
    ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
)
