"""Pieces of TOML that the agent writes."""

from __future__ import annotations

import json


def string(text: str) -> str:
    """A TOML basic string; its escapes are those of JSON, and a dollar sign names a variable only before a brace."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
