"""Which column is what: the heading row of a register list, in the words of several languages."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_HEADINGS: dict[str, tuple[str, ...]] = {
    "name": (
        "name", "tag", "tag name", "parameter", "parameter name", "variable", "signal", "measurand", "point",
        "point name", "value", "bezeichnung", "parametername", "messgröße", "messwert", "grandeur", "nom", "nombre",
        "nome", "参数", "参数名", "参数名称", "名称", "变量", "变量名", "测点", "测点名称", "点名", "信号名称",
        "数据项",
    ),
    "address": (
        "address", "addr", "register", "register address", "reg", "reg address", "modbus address", "modbus register",
        "start address", "start register", "offset", "adresse", "registeradresse", "startadresse", "registre",
        "dirección", "direccion", "registro", "indirizzo", "地址", "寄存器", "寄存器地址", "起始地址", "通讯地址偏移",
        "点位地址", "modbus地址", "寄存器起始地址",
    ),
    "type": (
        "type", "data type", "datatype", "format", "data format", "datentyp", "typ", "type de données", "tipo",
        "tipo de dato", "类型", "数据类型", "格式", "数据格式",
    ),
    "unit": ("unit", "units", "uom", "engineering unit", "einheit", "unité", "unite", "unidad", "unità", "单位"),
    "scale": (
        "scale", "scaling", "scale factor", "factor", "multiplier", "resolution", "skalierung", "faktor", "auflösung",
        "facteur", "échelle", "factor de escala", "倍率", "系数", "比例", "比例系数", "乘数", "分辨率", "精度",
    ),
    "divisor": ("divisor", "divider", "divide by", "除数"),
    "gain": ("gain", "增益"),
    "decimals": ("decimals", "decimal places", "nachkommastellen", "小数位", "小数位数"),
    "table": (
        "table", "function", "function code", "functioncode", "fc", "fn code", "register type", "modbus function",
        "object type", "funktionscode", "funktion", "registertyp", "code fonction", "函数", "功能码", "读功能码",
        "寄存器类型", "数据表",
    ),
    "unit_id": (
        "unit id", "unitid", "slave", "slave id", "slave address", "device id", "station", "station address",
        "node id", "unit address", "slave adresse", "从站", "从站地址", "站号", "设备地址", "从机地址", "单元号",
    ),
    "device": ("device", "device name", "meter", "meter name", "equipment", "gerät", "geräte", "zähler", "appareil",
               "设备", "设备名", "设备名称", "仪表", "仪表名称", "表计"),
    "description": ("description", "comment", "comments", "remark", "remarks", "note", "notes", "beschreibung",
                    "bemerkung", "kommentar", "commentaire", "descripción", "描述", "说明", "备注", "注释"),
    "count": ("count", "length", "size", "words", "registers", "number of registers", "no of registers", "quantity",
              "register count", "länge", "anzahl", "anzahl register", "longueur", "长度", "数量", "字数", "寄存器数",
              "寄存器数量", "寄存器个数", "字长"),
    "word_order": ("word order", "byte order", "order", "endianness", "字节序", "字序", "字节顺序"),
    "medium": ("medium", "carrier", "介质", "能源类型"),
}  # fmt: skip
_MEANINGS = {heading: meaning for meaning, headings in _HEADINGS.items() for heading in headings}
_ROWS = 30
"""Rows in which the headings are looked for."""
_UNITS = re.compile(r"[(\[（【].*?[)\]）】]")
_HEX = re.compile(r"\bhex|十六进制|16进制", re.IGNORECASE)
_MARKS = re.compile(r"[\s_./:：#*\-]+")


@dataclass(frozen=True, slots=True)
class Columns:
    """Where the headings are (a row's index), which column is what, and the headings that mean nothing here."""

    row: int
    places: Mapping[str, int]
    unused: tuple[str, ...]
    hexadecimal: bool = False
    """Whether the heading says that addresses are hexadecimal."""

    def cells(self, row: Sequence[str]) -> dict[str, str]:
        """The cells of a row by meaning; those that are missing are empty."""
        return {name: row[at].strip() if at < len(row) else "" for name, at in self.places.items()}


def find(rows: Sequence[Sequence[str]]) -> Columns | None:
    """The first row that has headings for name (or description) and address; None if there is none."""
    for index, row in enumerate(rows[:_ROWS]):
        places: dict[str, int] = {}
        unused = []
        for at, cell in enumerate(row):
            meaning = _meaning(cell)
            if meaning is None or meaning in places:
                unused += [cell] if cell.strip() else []
            else:
                places[meaning] = at
        if "address" in places and ("name" in places or "description" in places):
            if "name" not in places:
                places["name"] = places["description"]
            return Columns(index, places, tuple(unused), _HEX.search(row[places["address"]]) is not None)
    return None


def _meaning(cell: str) -> str | None:
    bare = _MARKS.sub(" ", _UNITS.sub(" ", cell).casefold()).strip()
    found = _MEANINGS.get(bare)
    if found is None:
        # A heading in two languages, such as "地址 Address".
        parts = [_MEANINGS.get(part) for part in bare.split(" ")]
        known = {part for part in parts if part}
        found = known.pop() if len(known) == 1 and all(parts) else None
    return found
