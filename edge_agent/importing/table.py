"""Rows of text from a CSV or XLSX file; cells that span rows are filled down."""

from __future__ import annotations

import csv
import importlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.errors import EdgeError

MAX_ROWS = 20_000
_MAX_COLUMNS = 200
_MAX_BYTES = 50_000_000
_DELIMITERS = (",", ";", "\t", "|")


class ImportListError(EdgeError):
    """The register list can't be read at all."""


@dataclass(frozen=True, slots=True)
class Table:
    """One sheet: rows of cells; the first is line 1."""

    name: str
    rows: tuple[tuple[str, ...], ...]


def read(path: Path, encoding: str | None, accept: Callable[[Table], bool]) -> Table:
    """Read the first sheet, or the first way to split lines, that `accept` takes.

    Raises
    ------
    ImportListError
        If the file can't be read, or `accept` takes nothing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImportListError(f"{path}: {error.strerror or error}") from error
    if len(data) > _MAX_BYTES:
        raise ImportListError(f"{path}: {len(data)} bytes; allowed: up to {_MAX_BYTES}")
    match path.suffix.lower():
        case ".csv" | ".txt" | ".tsv":
            tables = _csv(path, data, encoding)
        case ".xlsx" | ".xlsm":
            tables = _xlsx(path, data)
        case other:
            raise ImportListError(f"{path}: file type {other!r}; allowed: .csv, .xlsx")
    for table in tables:
        if accept(table):
            return table
    raise ImportListError(
        f"{path}: no row with headings for name and address was found in the first rows; "
        "allowed: headings such as name and address, or 参数 and 地址"
    )


def _csv(path: Path, data: bytes, encoding: str | None) -> list[Table]:
    try:
        text = data.decode(encoding or "utf-8-sig")
    except (UnicodeDecodeError, LookupError) as error:
        raise ImportListError(f"{path}: {error}; say what it is, such as --encoding gb18030 or cp1252") from error
    tables = []
    for delimiter in _DELIMITERS:
        try:
            # Lines are counted in records, so a quoted cell with a line break shifts none of them.
            found = csv.reader(io.StringIO(text), delimiter=delimiter)
            rows = tuple(tuple(cell.strip() for cell in row) for row in found)
        except csv.Error as error:
            raise ImportListError(f"{path}: {error}") from error
        tables.append(Table(path.name, _bounded(path, rows)))
    return tables


def _xlsx(path: Path, data: bytes) -> list[Table]:
    try:
        openpyxl = importlib.import_module("openpyxl")
    except ImportError as error:
        hint = "pip install 'metercarbon[import]', or save it as CSV"
        raise ImportListError(f"{path}: needs openpyxl; {hint}") from error
    try:
        book = openpyxl.load_workbook(io.BytesIO(data), data_only=True)
    except Exception as error:  # what openpyxl raises on a broken file is any of a dozen types
        raise ImportListError(f"{path}: not a workbook: {error}") from error
    tables = []
    for sheet in book.worksheets:
        if sheet.max_row > MAX_ROWS or sheet.max_column > _MAX_COLUMNS:
            raise ImportListError(
                f"{path}: sheet {sheet.title!r} has {sheet.max_row} rows and {sheet.max_column} columns; "
                f"allowed: up to {MAX_ROWS} and {_MAX_COLUMNS}"
            )
        rows = [[_text(cell) for cell in row] for row in sheet.iter_rows(values_only=True)]
        for span in sheet.merged_cells.ranges:
            # Filled down only: across, a title would become the value of columns it has nothing to do with.
            if span.min_col == span.max_col:
                for row in range(span.min_row, span.max_row):
                    rows[row][span.min_col - 1] = rows[span.min_row - 1][span.min_col - 1]
        tables.append(Table(sheet.title, tuple(tuple(row) for row in rows)))
    book.close()
    return tables


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, float):
        return str(int(cell)) if cell.is_integer() else repr(cell)
    return str(cell).strip()


def _bounded(path: Path, rows: tuple[tuple[str, ...], ...]) -> tuple[tuple[str, ...], ...]:
    if len(rows) > MAX_ROWS:
        raise ImportListError(f"{path}: {len(rows)} rows; allowed: up to {MAX_ROWS}")
    return rows
