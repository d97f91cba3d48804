"""What was found in the address space of an OPC-UA server."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_agent.config import OpcUa
from edge_agent.scanning.paths import Path


@dataclass(slots=True)
class Variable:
    """A variable of a server.

    Attributes
    ----------
    path
        Browse names from the start of the scan.
    node
        Node id, as configurations have it.
    type
        Data type; of the value, where there is one.
    value
        Present value; None where there is none.
    status
        Name of its status, empty if good.
    unit
        As the server shows it, empty if it does not.
    access
        "r", "w" or both, for the user of the scan; empty if none, "?" if the server does not say.
    """

    path: Path
    node: str
    type: str = "?"
    value: object = None
    status: str = ""
    unit: str = ""
    access: str = "?"


@dataclass(slots=True)
class Space:
    """What was found.

    Attributes
    ----------
    settings
        The connection.
    namespaces
        URIs, by index.
    variables
        By path.
    objects
        Paths of what is no variable.
    visited
        How many nodes were visited.
    complete
        Whether that is all there is.
    notes
        What else is to be said.
    """

    settings: OpcUa
    namespaces: list[str] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    objects: list[Path] = field(default_factory=list)
    visited: int = 0
    complete: bool = True
    notes: list[str] = field(default_factory=list)
