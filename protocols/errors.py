"""Errors of the shared contracts. Every message says what was found and what is allowed."""

from __future__ import annotations


class ProtocolError(Exception):
    """Base of all errors raised by `protocols`."""


class PayloadError(ProtocolError):
    """The bytes are not a valid message of the codec they claim."""


class UnknownCodecError(ProtocolError):
    """No codec is registered under this name."""


class TopicError(ProtocolError):
    """The topic or one of its parts is not of the form this product uses."""


class QuantityError(ProtocolError):
    """The quantity is unknown, or the unit does not fit it."""


class SchemaError(ProtocolError):
    """A point or a schema of points contradicts itself."""


class CatalogueError(ProtocolError):
    """A meter model file is wrong, or the model is not in the catalogue."""


class DecodePlanError(ProtocolError):
    """A register field cannot be decoded as described."""


class RegisterValueError(ProtocolError):
    """A value does not fit the register type that it should be encoded as."""
