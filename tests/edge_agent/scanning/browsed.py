"""An OPC-UA server with a plant in it: folders, several hundred variables, loops, and limits that it enforces."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.node import Node
from asyncua.server.internal_session import InternalSession
from asyncua.server.server import Server
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIdNames, ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.ua_binary import struct_from_binary
from asyncua.ua.uaerrors import UaStatusCodeError

URI = "urn:test:plant"
LINES, MILLS = 4, 10
PER_MILL = 6
EXTRA = 4
VARIABLES = LINES * MILLS * PER_MILL + EXTRA
_NEXT = ua.NodeId(ua.Int32(ObjectIds.BrowseNextRequest_Encoding_DefaultBinary), ua.Int16(0))
_LIMITS = tuple(
    ua.NodeId(ua.Int32(number), ua.Int16(0))
    for number in (
        ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerRead,
        ObjectIds.Server_ServerCapabilities_OperationLimits_MaxNodesPerBrowse,
    )
)
_made: Any = ua
_numbers = count()


class PlantServer:
    """Listens on loopback between start and stop; counts what it is asked for while limits are enforced."""

    def __init__(self, port: int) -> None:
        self.endpoint = f"opc.tcp://127.0.0.1:{port}/plant"
        self.server = Server()
        self.sizes: dict[str, list[int]] = {"browse": [], "read": [], "next": []}
        self.services: set[str] = set()

    async def start(self) -> None:
        """Listen."""
        await self.server.init()
        self.server.set_endpoint(self.endpoint)
        # It only keeps a node's time, and stops after up to a second.
        self.server.disable_clock()
        self.space = await self.server.register_namespace(URI)
        await self._fill(self.server.nodes.objects)
        await self.server.start()

    async def stop(self) -> None:
        """Stop."""
        await self.server.stop()

    def forget(self) -> None:
        """Forget what was asked for."""
        self.services.clear()
        for sizes in self.sizes.values():
            sizes.clear()

    async def _fill(self, objects: Node) -> None:
        plant = await self._folder(objects, "Plant")
        for line in range(1, LINES + 1):
            line_node = await self._folder(plant, f"Line{line}")
            for mill in range(1, MILLS + 1):
                node = await self._folder(line_node, f"Mill{mill}")
                where = f"L{line}M{mill}"
                await self._variable(node, where, "Active power", 100.5 * mill, "kW")
                await self._variable(node, where, "Active energy total", 1e6 + mill, "kWh")
                await self._variable(node, where, "Running", True)
                await self._variable(node, where, "Recipe", f"R{mill}")
                await self._variable(node, where, "Bearing", 61.5, "°C")
                await self._variable(node, where, "Setting", 7)
                # Back to the top, and to itself.
                await node.add_reference(plant, ObjectIds.Organizes, bidirectional=False)
                await node.add_reference(node, ObjectIds.Organizes, bidirectional=False)
        odd = await self._folder(plant, "Odd")
        await self._variable(odd, "odd", "Stamp", datetime(2022, 6, 14, tzinfo=UTC))
        await self._variable(odd, "odd", "Curve", [1.0, 2.0])
        await self._variable(odd, "odd", "In/Out", 3.5, "bar")
        await self._variable(odd, "${HOME}", "Trap", 1.5, "kW")

    async def _folder(self, parent: Node, name: str) -> Node:
        return await parent.add_folder(self.space, name)

    async def _variable(self, parent: Node, where: str, name: str, value: object, unit: str = "") -> None:
        node_id = ua.NodeId.from_string(f"ns={self.space};s={where}.{name}")
        node = await parent.add_variable(node_id, ua.QualifiedName(name, self.space), value)
        if unit:
            told = _made.EUInformation(DisplayName=ua.LocalizedText(unit))
            await node.add_property(_made.NodeId(0, self.space), "0:EngineeringUnits", told)

    def enforce(
        self,
        patch: pytest.MonkeyPatch,
        per_read: int = 10_000,
        per_browse: int = 10_000,
        references: int = 0,
        told: tuple[int, int] = (0, 0),
        huge: str = "",
    ) -> None:
        """Refuse calls that ask for more, give so many references at once, and tell limits of reads and browses.

        The value of the node `huge` fits no answer.
        """
        browse, read = InternalSession.browse, InternalSession.read
        process: Any = UaProcessor._process_message
        kept: dict[bytes, list[ua.ReferenceDescription]] = {}

        async def limited_browse(session: InternalSession, parameters: ua.BrowseParameters) -> list[ua.BrowseResult]:
            self._check("browse", len(parameters.NodesToBrowse), per_browse)
            return [self._part(found, references, kept) for found in await browse(session, parameters)]

        async def limited_read(session: InternalSession, parameters: ua.ReadParameters) -> list[ua.DataValue]:
            self._check("read", len(parameters.NodesToRead), per_read)
            for wanted in parameters.NodesToRead:
                if wanted.NodeId.to_string() == huge and wanted.AttributeId == AttributeIds.Value:
                    raise UaStatusCodeError(StatusCodes.BadResponseTooLarge)  # type: ignore[no-untyped-call]
            limits = dict(zip(_LIMITS, told, strict=True))
            return [
                _made.DataValue(_made.Variant(limits[wanted.NodeId], ua.VariantType.UInt32))
                if wanted.NodeId in limits and any(told)
                else found
                for wanted, found in zip(parameters.NodesToRead, await read(session, parameters), strict=True)
            ]

        async def with_next(found: Any, typeid: ua.NodeId, header: Any, sequence: Any, body: Any) -> Any:
            self.services.add(ObjectIdNames[int(str(typeid.Identifier))].partition("_")[0])
            if typeid != _NEXT:
                return await process(found, typeid, header, sequence, body)
            parameters = struct_from_binary(ua.BrowseNextParameters, body)
            self.sizes["next"].append(len(parameters.ContinuationPoints))
            response = ua.BrowseNextResponse()
            response.Parameters.Results = [
                self._part(ua.BrowseResult(References=kept.pop(point)), references, kept)
                for point in parameters.ContinuationPoints
            ]
            found.send_response(header.RequestHandle, sequence, response)
            return True

        patch.setattr(InternalSession, "browse", limited_browse)
        patch.setattr(InternalSession, "read", limited_read)
        patch.setattr(UaProcessor, "_process_message", with_next)

    def _check(self, what: str, asked: int, most: int) -> None:
        self.sizes[what].append(asked)
        if asked > most:
            raise UaStatusCodeError(StatusCodes.BadTooManyOperations)  # type: ignore[no-untyped-call]

    @staticmethod
    def _part(
        found: ua.BrowseResult, references: int, kept: dict[bytes, list[ua.ReferenceDescription]]
    ) -> ua.BrowseResult:
        if references and len(found.References) > references:
            point = f"rest {next(_numbers)}".encode()
            kept[point] = found.References[references:]
            found.References = found.References[:references]
            found.ContinuationPoint = point
        return found
