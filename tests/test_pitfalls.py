"""docs/pitfalls.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("path", "name"), NAMED, ids=lambda value: value)
def test_the_test_of_a_pitfall_is_there(path: str, name: str) -> None:
    file = ROOT / (path if path.startswith("tests/") else f"tests/edge_agent/{path}")
    assert name in functions(file)


def test_every_pitfall_has_an_answer() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| What breaks")]
    assert len(rows) > 50
    assert [row for row in rows if "`" not in row and "later" not in row] == []
