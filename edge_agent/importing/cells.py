"""What single cells mean: addresses, types, tables, numbers, units. A cell with two meanings is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass

from protocols.modbus.limits import TableName
from protocols.modbus.words import Order, RegisterType, register_count
from protocols.quantities import QUANTITIES


class CellError(ValueError):
    """A cell can't be read; the message says what was found and what is allowed."""


# Addresses

_TABLE_DIGITS: dict[str, TableName] = {"0": "coil", "1": "discrete", "3": "input", "4": "holding"}
_MODICON = re.compile(r"([0134])(\d{4}|\d{5})")
_MODICON_MARKED = re.compile(r"([0134])[xX:](\d{1,5})")
_HEX = re.compile(r"0[xX]([0-9a-fA-F]{1,4})|([0-9a-fA-F]{1,4})[hH]")
_HEX_DIGITS = 4
_BARE_HEX = re.compile(r"[0-9a-fA-F]{1,4}")
_RANGE = re.compile(r"(.+?)\s*(?:-|–|—|~|～|\.\.|to|至|到)\s*(.+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a value begins, as in the request; the table if the notation tells it; entries if it is a range.

    `plain` is a decimal number that says nothing of its table.
    """

    number: int
    table: TableName | None = None
    count: int | None = None
    plain: bool = False


def looks_modicon(text: str) -> bool:
    """Whether a decimal address may be in the notation with a leading table digit (40001, 300001)."""
    match = _RANGE.fullmatch(text)
    found = _MODICON.fullmatch(match[1] if match else text)
    return found is not None and 1 <= int(found[2]) <= 65_536


def is_bare_hex(text: str) -> bool:
    """Whether an address is hexadecimal without a mark (00FA): its list has no decimal ones then."""
    match = _RANGE.fullmatch(text)
    first = match[1] if match else text
    return len(first) == _HEX_DIGITS and _BARE_HEX.fullmatch(first) is not None and not first.isdigit()


def address(text: str, *, modicon: bool, base: int, hexadecimal: bool = False) -> Address:
    """Read an address.

    Parameters
    ----------
    text
        Decimal, hexadecimal, with a table digit (40001, 4x0001), or a range of one of these.
    modicon
        Whether decimal addresses have a leading table digit.
    base
        What the list calls the first entry where there is no table digit: 0 or 1.
    hexadecimal
        Whether numbers without a mark are hexadecimal.
    """
    span = _RANGE.fullmatch(text)
    if span:
        first, last = (address(part, modicon=modicon, base=base, hexadecimal=hexadecimal) for part in span.groups())
        if last.number < first.number:
            raise CellError(f"address {text!r} ends before it begins")
        return Address(first.number, first.table, last.number - first.number + 1, first.plain)
    marked = _MODICON_MARKED.fullmatch(text) if not re.match(r"0[xX]", text) else None
    if marked is None and modicon:
        marked = _MODICON.fullmatch(text)
    if marked:
        return Address(_bounded(int(marked[2]) - 1, text), _TABLE_DIGITS[marked[1]])
    told = _HEX.fullmatch(text)
    if told:
        digits = next(group for group in told.groups() if group is not None)
        return Address(_bounded(int(digits, 16) - base, text))
    if hexadecimal and _BARE_HEX.fullmatch(text):
        return Address(_bounded(int(text, 16) - base, text))
    if not hexadecimal and text.isascii() and text.isdigit():
        return Address(_bounded(int(text) - base, text), plain=True)
    raise CellError(f"address {text!r} can't be read; allowed: such as 100, 0x64, 64h, 40101, 4x0101, 100-101")


def _bounded(number: int, text: str) -> int:
    if not 0 <= number <= 65_535:
        raise CellError(f"address {text!r} is {number} in the request; allowed: 0 to 65535")
    return number


# Types

_WORDS: tuple[tuple[str, str], ...] = (
    (r"double|lreal|float ?64|双精度", "float64"),
    (r"float|real|single|ieee ?754|浮点|单精度", "float32"),
    (r"bool(ean)?|bit|binary|开关量|布尔|位", "bool"),
    (r"ulint", "uint64"),
    (r"lint", "int64"),
    (r"udint|dword|ulong|unsigned long|无符号长整", "uint32"),
    (r"dint|long|signed long|长整", "int32"),
    (r"ushort|unsigned short|word", "uint16"),
    (r"short|signed short", "int16"),
)
_UNSIGNED = re.compile(r"^u|unsigned|无符号")
_INTEGER = re.compile(r"int|signed|整|符号|^[us] ?(16|32|64)$")
_WIDTH = re.compile(r"(?<!\d)(16|32|64)(?!\d)")
_ORDERS: dict[str, tuple[Order, Order]] = {
    "abcd": ("big", "big"), "ab": ("big", "big"), "abcdefgh": ("big", "big"),
    "cdab": ("little", "big"), "ghefcdab": ("little", "big"),
    "badc": ("big", "little"), "ba": ("big", "little"), "badcfehg": ("big", "little"),
    "dcba": ("little", "little"), "hgfedcba": ("little", "little"),
}  # fmt: skip
_UNSUPPORTED = re.compile(r"bcd|string|char|ascii|date|time|utc|mod ?10|字符|日期|时间|bitmap|enum|array")


def register_type(text: str, count: int | None) -> RegisterType:
    """Read a type; `count` registers tell the width of an integer that does not say it."""
    bare = re.sub(r"[\s_\-]+", " ", re.sub(r"[（(\[].*?[)）\]]", "", text).casefold()).strip()
    if not bare:
        raise CellError("no type; allowed: such as uint16, int32, float")
    if _UNSUPPORTED.search(bare):
        raise CellError(f"type {text!r} can't be imported; allowed: bits, integers and floats")
    bare = re.sub(r"\b(" + "|".join(_ORDERS) + r")\b", "", bare).strip()
    width = _WIDTH.search(bare)
    found = _named(bare, width, count)
    if found is None:
        raise CellError(f"type {text!r} can't be read; allowed: such as uint16, int32, float")
    if count is not None and found != "bool" and register_count(found) != count:
        raise CellError(f"type {text!r} takes {register_count(found)} registers, the list says {count}")
    return found


def _named(bare: str, width: re.Match[str] | None, count: int | None) -> RegisterType | None:
    compact = bare.replace(" ", "")
    for pattern, name in _WORDS:
        if re.fullmatch(rf"(?:{pattern})(?:数|型|数型|量|整数|整型)?\d*", bare):
            if name == "float32" and ((width and width[0] == "64") or (width is None and count == 4)):
                return "float64"
            if width and name not in ("bool", "float64") and not name.endswith(width[0]):
                break
            return name  # type: ignore[return-value]
    if not _INTEGER.search(compact):
        return None
    bits = int(width[0]) if width else 16 * count if count in (1, 2, 4) else None
    if bits is None and compact in ("int", "uint"):
        # The names of IEC 61131; half of the manuals mean 32 bits.
        raise CellError(f"type {bare!r} does not say its width; allowed: such as {bare}16, or a column with the length")
    if bits is None:
        return None
    return f"{'u' if _UNSIGNED.search(compact) else ''}int{bits}"  # type: ignore[return-value]


def orders(*texts: str) -> tuple[Order, Order] | None:
    """Order of words and of bytes that one of the cells names; None if none does."""
    for text in texts:
        folded = text.casefold()
        named = re.search(r"\b(" + "|".join(sorted(_ORDERS, key=len, reverse=True)) + r")\b", folded)
        if named:
            return _ORDERS[named[1]]
        if re.search(r"word ?swap|swapped words|low word first|lsw first|低字在前", folded):
            return "little", "big"
    return None


# Tables

_TABLE_WORDS: tuple[tuple[str, TableName], ...] = (
    (r"holding|保持|haltereg", "holding"),
    (r"discrete|离散|输入状态|diskret", "discrete"),
    (r"coil|线圈|输出状态|spule", "coil"),
    (r"input|输入|eingang", "input"),
)
_FUNCTIONS: dict[int, TableName] = {1: "coil", 2: "discrete", 3: "holding", 4: "input"}


def table(text: str) -> TableName | None:
    """Read a table or function code; None if the cell is empty."""
    if not text:
        return None
    for pattern, name in _TABLE_WORDS:
        if re.search(pattern, text.casefold()):
            return name
    marked = re.fullmatch(r"([0134])[xX]", text.strip())
    if marked:
        return _TABLE_DIGITS[marked[1]]
    bare = text.casefold().replace("fc", " ")
    codes = [int(code, 16) for code in re.findall(r"(?:0x)?([0-9a-f]{1,2})(?![0-9a-z])", bare)]
    reads = [_FUNCTIONS[code] for code in codes if code in _FUNCTIONS]
    if not reads:
        raise CellError(f"table {text!r} can't be read; allowed: function 1 to 4, coil, discrete, input, holding")
    return reads[0]


# Numbers

_POWER = re.compile(r"10\s*(?:\^|\*\*)\s*([+-]?\d{1,2})")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def factor(text: str) -> float:
    """Read a factor: 0.1, 0,1, ×0.1, 1/10, /10, 10^-1."""
    bare = text.replace("×", "").replace("*10^", "10^").strip().lstrip("xX*").strip()
    power = _POWER.fullmatch(bare)
    if power:
        return float(f"1e{int(power[1])}")
    top, slash, bottom = bare.partition("/")
    if slash:
        divisor = number(bottom.strip())
        if divisor == 0:
            raise CellError(f"factor {text!r} divides by 0")
        return (number(top.strip()) if top.strip() else 1.0) / divisor
    return number(bare)


def number(text: str) -> float:
    """Read a number; a comma counts as decimal unless it may part thousands."""
    bare = text
    if "," in text:
        if re.fullmatch(r"[+-]?[1-9]\d{0,2},\d{3}", text) or text.count(",") > 1 or "." in text:
            raise CellError(f"number {text!r} can be read in two ways; allowed: without commas")
        bare = text.replace(",", ".")
    if not _NUMBER.fullmatch(bare):
        raise CellError(f"number {text!r} can't be read; allowed: such as 0.1")
    found = float(bare)
    if not abs(found) < 1e30:
        raise CellError(f"number {text!r} is too large")
    return found


# Units

_SYMBOLS = {unit.symbol for quantity in QUANTITIES.values() for unit in quantity.units} - {"1"}
_OTHER_UNITS = {
    "度": "kWh", "千瓦时": "kWh", "kw·h": "kWh", "kw.h": "kWh", "kw*h": "kWh", "千瓦": "kW", "瓦": "W", "伏": "V",
    "伏特": "V", "安": "A", "安培": "A", "赫兹": "Hz", "千乏": "kvar", "千乏时": "kvarh", "千伏安": "kVA", "升": "L",
    "ltr": "L", "liter": "L", "litre": "L", "m³": "m3", "m^3": "m3", "㎥": "m3", "立方米": "m3", "cbm": "m3",
    "m³/h": "m3/h", "m^3/h": "m3/h", "㎥/h": "m3/h", "立方米/小时": "m3/h", "m³/min": "m3/min", "nm³": "Nm3",
    "nm^3": "Nm3", "标方": "Nm3", "nm³/h": "Nm3/h", "nm^3/h": "Nm3/h", "nm³/min": "Nm3/min", "吨": "t",
    "吨/小时": "t/h", "吨/时": "t/h", "千克": "kg", "公斤": "kg", "°c": "degC", "℃": "degC", "deg c": "degC",
    "deg. c": "degC",
    "摄氏度": "degC", "小时": "h", "hours": "h", "hour": "h", "hrs": "h", "volt": "V", "volts": "V", "amp": "A",
    "amps": "A", "ampere": "A", "hertz": "Hz", "百分比": "%", "percent": "%",
}  # fmt: skip
_NONE = {"", "-", "--", "—", "/", "1", "none", "n/a", "na", "无", "无单位"}
_SCALED = re.compile(r"[×xX*]?\s*(10\s*\^\s*[+-]?\d{1,2}|\d+(?:[.,]\d+)?)\s*[×xX*·]?\s*([^\d\s].*)")


def unit(text: str) -> tuple[str, float]:
    """Read a unit, perhaps with a number before it (0.1V); gives the symbol, "1" for none, and the factor."""
    if text.casefold() in _NONE:
        return "1", 1.0
    bare = text.strip("[]()（） ")
    symbol = _symbol(bare)
    if symbol is not None:
        return symbol, 1.0
    scaled = _SCALED.fullmatch(bare)
    symbol = _symbol(scaled[2].strip()) if scaled else None
    if scaled is None or symbol is None:
        allowed = ", ".join(sorted(_SYMBOLS))
        raise CellError(f"unit {text!r} can't be read; allowed: {allowed}, with or without a factor")
    return symbol, factor(scaled[1])


def _symbol(text: str) -> str | None:
    if text in _SYMBOLS:
        return text
    folded = text.casefold()
    if folded in _OTHER_UNITS:
        return _OTHER_UNITS[folded]
    found = {symbol for symbol in _SYMBOLS if symbol.casefold() == folded}
    # Milli or mega: only a capital tells. (mA is never MA in a meter list, but "MA" may be a mistake for it.)
    if len(found) != 1 or (folded.startswith("m") and not folded.startswith("m3") and not text.startswith("M")):
        return None
    symbol = found.pop()
    return None if symbol.startswith("m") and text.startswith("M") and symbol != "m3" else symbol
