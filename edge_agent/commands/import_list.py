"""`import`: a register list (CSV or XLSX) to the text of `agent.toml`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge_agent import points
from edge_agent.importing import columns, document, table
from edge_agent.importing.document import Options
from edge_agent.importing.table import ImportListError


@dataclass(frozen=True, slots=True)
class Import:
    """Text of `agent.toml`, what to tell about it, and whether each line of the list is in it."""

    text: str
    messages: tuple[str, ...]
    complete: bool


def run(path: Path, options: Options, encoding: str | None = None) -> Import:
    """Read a register list.

    Raises
    ------
    ImportListError
        If the file can't be read, or nothing in it can.
    """
    read = table.read(path, encoding, lambda found: columns.find(found.rows) is not None)
    found = columns.find(read.rows)
    assert found is not None
    result = document.lines(read.rows, found, options)
    messages = [f"{path.name}: {line}" for line in (*result.notes, *result.problems)]
    if not result.read:
        raise ImportListError("\n".join([*messages, f"{path}: no line could be read"]))
    messages.append(f"{path.name}: {result.read} lines read, {len(result.problems)} not")
    text = document.toml(result, options)
    points.load(text, "agent.toml", {})
    return Import(text, tuple(messages), not result.problems)


__all__ = ["Import", "ImportListError", "Options", "run"]
