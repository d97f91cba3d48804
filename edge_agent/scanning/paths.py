"""Paths in an address space, and patterns for them.

A path is the browse names from the start of the scan, joined by "/". In a pattern ``*`` stands for any part of
a name and ``**`` for any number of names. A "/", "*" or "&" that belongs to a name is written after an "&".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

from edge_agent.scanning.errors import ScanUsageError

Path = tuple[str, ...]
_ANY_DEPTH = "**"
_BORDER = "\0"
_NAME = rf"[^{_BORDER}]"
_DIGITS = re.compile(r"([0-9]+)")
_NEAREST = 5
_ALIKE = 0.5


def show(path: Path) -> str:
    """A path as text, which as a pattern matches that path alone."""
    return "/".join(re.sub(r"([&/*])", r"&\1", name) for name in path)


def in_order(path: Path) -> list[list[tuple[int, str]]]:
    """A key that sorts paths as people do: Mill2 before Mill10."""
    # Split so, every other part of a name is digits; the numbers stand first, the texts tell what is equal.
    return [[(int(part) if n % 2 else 0, part) for n, part in enumerate(_DIGITS.split(name))] for name in path]


class Pattern:
    """A pattern for paths.

    Parameters
    ----------
    text
        The pattern.

    Raises
    ------
    ScanUsageError
        If it makes no sense.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._parts = _split(text)
        if not self._parts or not all(self._parts):
            raise ScanUsageError(f"--select {text!r}; allowed: names joined by '/', such as Plant/*/Mill/**")
        for part in self._parts:
            if _ANY_DEPTH in part and part != _ANY_DEPTH:
                raise ScanUsageError(f"--select {text!r}: {part!r}; allowed: '**' alone between two '/'")
        self._expression = _compile(self._parts)

    def matches(self, path: Path) -> bool:
        """Whether a path is one of those meant."""
        return self._expression.fullmatch(_BORDER.join(path)) is not None

    def nearest(self, paths: Collection[Path]) -> list[str]:
        """Paths that the pattern may have been meant for, as text; `paths` are those that exist."""
        known = {path[:depth] for path in paths for depth in range(len(path) + 1)}
        for depth in range(len(self._parts) - 1, -1, -1):
            head = _compile(self._parts[:depth]) if depth else None
            heads = {path for path in known if (head is None and not path) or (head and path and _fits(head, path))}
            if heads:
                return _alike(self._parts[depth], {path for path in known if path and path[:-1] in heads})
        return []


def _split(text: str) -> list[str]:
    """Names of a pattern; a "/" at its begin or end says nothing, and one after an "&" belongs to the name."""
    parts = [""]
    letters = re.findall(r"&.|.", text, re.DOTALL)
    if letters and letters[-1] == "&":
        return []
    for letter in letters:
        if letter == "/":
            parts.append("")
        else:
            parts[-1] += letter
    return parts[not parts[0] : len(parts) - (not parts[-1])]


def _fits(expression: re.Pattern[str], path: Path) -> bool:
    return expression.fullmatch(_BORDER.join(path)) is not None


def _compile(parts: list[str]) -> re.Pattern[str]:
    pieces = []
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == _ANY_DEPTH:
            pieces.append(".+" if last else f"(?:{_NAME}+{_BORDER})*")
            continue
        letters = re.findall(r"&.|.", part, re.DOTALL)
        name = "".join(f"{_NAME}*" if letter == "*" else re.escape(letter[-1]) for letter in letters)
        pieces.append(name if last else name + _BORDER)
    return re.compile("".join(pieces), re.DOTALL)


def _alike(part: str, children: Collection[Path]) -> list[str]:
    """Those of the paths whose last names are like a part of a pattern; some of them if none is."""
    names = {path: path[-1].casefold() for path in sorted(children, key=in_order)}
    wanted = part.replace("*", "").casefold()
    close = difflib.get_close_matches(wanted, list(dict.fromkeys(names.values())), _NEAREST, _ALIKE)
    chosen = [path for name in close for path in names if names[path] == name] or list(names)
    return [show(path) for path in sorted(chosen, key=in_order)[:_NEAREST]]
