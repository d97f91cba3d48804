"""The codecs that exist, by the name that stands in the topic."""

from __future__ import annotations

from protocols.errors import UnknownCodecError
from protocols.payload.base import Codec
from protocols.payload.json_v1 import JsonV1

CODECS: dict[str, Codec] = {codec.name: codec for codec in (JsonV1(),)}
DEFAULT_CODEC = JsonV1.name


def codec(name: str) -> Codec:
    """Look a codec up.

    Raises
    ------
    UnknownCodecError
        If there is none of that name; the message lists those that exist.
    """
    try:
        return CODECS[name]
    except KeyError:
        raise UnknownCodecError(f"codec {name!r} is unknown; known: {', '.join(sorted(CODECS))}") from None
