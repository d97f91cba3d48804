"""What a scan of an OPC-UA server found: for people, for machines, and as configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from edge_agent.importing import cells, meaning
from edge_agent.importing.cells import CellError
from edge_agent.importing.document import slug
from edge_agent.scanning import toml
from edge_agent.scanning.paths import Path, Pattern, show
from edge_agent.scanning.space import Space, Variable
from protocols.modbus.words import RegisterType
from protocols.quantities import Medium
from protocols.reading import ValueType

_FLOATS = {"Float", "Double", "Number", "Duration"}
_INTEGERS = {
    "SByte", "Byte", "Int16", "UInt16", "Int32", "UInt32", "Int64", "UInt64", "Integer", "UInteger", "Enumeration",
}  # fmt: skip
_REGISTERS: dict[ValueType, RegisterType] = {"float": "float64", "int": "int64", "bool": "bool"}
"""What a register list would say."""
_LONGEST_VALUE = 40
_LONGEST_NAME = 64
_GAP = "  "


@dataclass(frozen=True, slots=True)
class Selection:
    """Variables that a pattern chose; all of them, if there is no pattern."""

    pattern: Pattern | None
    variables: tuple[Variable, ...]


@dataclass(slots=True)
class Selected:
    """What was chosen, and what is wrong with the patterns."""

    selections: list[Selection] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def variables(self) -> list[Variable]:
        """Each chosen variable once, in order."""
        return list({one.path: one for chosen in self.selections for one in chosen.variables}.values())


def select(space: Space, patterns: Sequence[Pattern]) -> Selected:
    """What the patterns match; a pattern that matches nothing is a problem, told with what it may have meant."""
    if not patterns:
        return Selected([Selection(None, tuple(space.variables))])
    found = Selected()
    for pattern in patterns:
        chosen = tuple(variable for variable in space.variables if pattern.matches(variable.path))
        if chosen:
            found.selections.append(Selection(pattern, chosen))
        else:
            found.problems.append(_unmatched(space, pattern))
    return found


def text(space: Space, selected: Selected) -> str:
    """A table for people."""
    rows = [_row(variable) for variable in selected.variables]
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    lines = [f"{len(space.variables)} variables among {space.visited} nodes of {space.settings.endpoint}"]
    lines += [f"note: {note}" for note in space.notes]
    lines += _namespaces(space, selected)
    for selection in selected.selections:
        lines.append("")
        if selection.pattern is not None:
            lines.append(f"{selection.pattern.text} matches {len(selection.variables)}:")
        for variable in selection.variables:
            *columns, value = _row(variable)
            cells_ = [column.ljust(width) for column, width in zip(columns, widths, strict=True)]
            lines.append(_GAP.join([*cells_, value]).rstrip())
    return "\n".join(lines) + "\n"


def json(space: Space, selected: Selected) -> str:
    """A document for machines."""
    document = {
        "endpoint": space.settings.endpoint,
        "namespaces": space.namespaces,
        "nodes": space.visited,
        "complete": space.complete,
        "variables": [_document(variable) for variable in selected.variables],
        "selected": [
            {"pattern": selection.pattern.text, "paths": [show(variable.path) for variable in selection.variables]}
            for selection in selected.selections
            if selection.pattern is not None
        ],
        "notes": [*space.notes, *selected.problems],
    }
    return (
        orjson.dumps(document, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_PASSTHROUGH_DATACLASS).decode()
        + "\n"
    )


def agent_toml(space: Space, selected: Selected, medium: Medium | None) -> tuple[str, list[str]]:
    """A fragment of `agent.toml`, and what had to be left out of it.

    The variables of one object become one device; quantity, kind and medium are told by unit and path as for
    `import`. A variable of which they are not told is written as a comment, to be completed.
    """
    lines = [toml.HEAD, *map(toml.comment, _namespaces(space, selected)), *toml.connection(space.settings)]
    problems: list[str] = []
    parents: dict[Path, list[Variable]] = {}
    for variable in selected.variables:
        parents.setdefault(variable.path[:-1], []).append(variable)
    names = _Names()
    for parent, variables in parents.items():
        device = names.new(".".join(parent) or space.settings.name)
        tags, failed = _tags(variables, medium)
        problems += failed
        head = ["[[device]]", *toml.keys({"name": device, "connection": space.settings.name})]
        kept = any(not line.startswith("#") and line for line in tags)
        lines += ["", *(head if kept else toml.commented(head)), *tags]
    return "\n".join(lines) + "\n", problems


def _namespaces(space: Space, selected: Selected) -> list[str]:
    """What the indices in the node ids stand for: a server may number them anew."""
    used = {variable.node.partition(";")[0] for variable in selected.variables}
    return [f"ns={index} is {uri}" for index, uri in enumerate(space.namespaces) if f"ns={index}" in used]


class _Names:
    """Names that are allowed and given once each."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, wanted: str) -> str:
        """A name as like the wanted one as possible."""
        base = slug(wanted) or "unnamed"
        name, number = base, 1
        while name in self._taken:
            number += 1
            name = f"{base[: _LONGEST_NAME - len(str(number)) - 1]}_{number}"
        self._taken.add(name)
        return name


def _tags(variables: Sequence[Variable], medium: Medium | None) -> tuple[list[str], list[str]]:
    names = _Names()
    lines: list[str] = []
    problems = []
    for variable in variables:
        keys: dict[str, Any] = {"name": names.new(variable.path[-1]), "node": variable.node}
        lines += ["", toml.comment(_shown(variable))]
        try:
            _check(variable)
            value_type = _value_type(variable)
        except CellError as error:
            problems.append(f"{show(variable.path)}: {error}")
            lines.append(toml.comment(f"left out: {error}"))
            continue
        if value_type != "float":
            keys["value_type"] = value_type
        try:
            told = _meaning(variable, value_type, medium)
        except CellError as error:
            problems.append(f"{show(variable.path)}: {error}")
            keys |= {"quantity": "", "unit": "", "kind": "", "medium": ""}
            lines.append(toml.comment(f"to be completed: {error}"))
            lines += toml.commented(["[[device.tag]]", *toml.keys(keys)])
            continue
        lines += ["[[device.tag]]", *toml.keys(keys | told)]
    return lines, problems


def _meaning(variable: Variable, value_type: ValueType, medium: Medium | None) -> dict[str, Any]:
    """Keys that say what a variable means."""
    if value_type == "text":
        return {"quantity": "text", "unit": "1", "kind": "state", "medium": medium or "none"}
    symbol, factor = cells.unit(variable.unit)
    register = _REGISTERS[value_type]
    told = meaning.tell(" ".join(variable.path), symbol, register, medium)
    keys: dict[str, Any] = {"quantity": told.quantity, "unit": symbol, "kind": told.kind, "medium": told.medium}
    if factor != 1:
        keys |= {"value_type": "float", "scale": factor}
    return keys


def _check(variable: Variable) -> None:
    if "r" not in variable.access and variable.access != "?":
        raise CellError(f"access {variable.access or 'none'!r}; allowed: readable")
    if toml.expands(variable.node) or not variable.node.isprintable():
        raise CellError(f"node {variable.node!r} can't be written in a configuration")


def _value_type(variable: Variable) -> ValueType:
    if variable.type in _FLOATS:
        return "float"
    if variable.type in _INTEGERS:
        return "int"
    if variable.type == "Boolean":
        return "bool"
    if variable.type == "String":
        return "text"
    raise CellError(f"type {variable.type}; allowed: a number, Boolean or String")


def _row(variable: Variable) -> tuple[str, str, str, str]:
    value = "" if variable.value is None else str(variable.value)
    value = "".join(letter if letter.isprintable() else "?" for letter in value)
    if len(value) > _LONGEST_VALUE:
        value = value[:_LONGEST_VALUE] + "…"
    shown = _GAP.join(part for part in (f"{value} {variable.unit}".strip(), variable.status) if part)
    return show(variable.path), variable.node, f"{variable.type} {variable.access}", shown


def _shown(variable: Variable) -> str:
    path, _, type_, value = _row(variable)
    return f"{path}: {type_}" + (f", now {value}" if value else "")


def _document(variable: Variable) -> dict[str, Any]:
    return {
        "path": show(variable.path),
        "node": variable.node,
        "type": variable.type,
        "value": variable.value,
        "status": variable.status or "Good",
        "unit": variable.unit,
        "access": variable.access,
    }


def _unmatched(space: Space, pattern: Pattern) -> str:
    problem = f"--select {pattern.text!r} matches no variable"
    if any(pattern.matches(path) for path in space.objects):
        return f"{problem}, but an object; its variables are {pattern.text.rstrip('/')}/**"
    paths = [variable.path for variable in space.variables] + space.objects
    nearest = pattern.nearest(paths)
    found = f"; nearest: {', '.join(nearest)}" if nearest else ""
    rest = "" if space.complete else "; not all nodes were seen, see --max-nodes"
    return f"{problem}{found}{rest}"
