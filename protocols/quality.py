"""Quality of a reading: good, uncertain or bad with a sub-reason, the same for every protocol.

Codes fit in one byte; the class is the range: 0-63 good, 64-127 uncertain, 128-255 bad. A bad reading
carries no value. Codes are stored and sent: never renumber, only add.
"""

from __future__ import annotations

from enum import IntEnum


class Quality(IntEnum):
    """Quality code of one reading."""

    GOOD = 0
    GOOD_RETIMED = 1
    """The gateway's clock was wrong then; the time was put right by its monotonic clock once it was set."""
    UNCERTAIN = 64
    UNCERTAIN_CLOCK = 65
    """The gateway's clock was not synchronised."""
    UNCERTAIN_TIME = 66
    """The answer took so long that the time of measurement is not known well enough to account by."""
    UNCERTAIN_OVERFLOW = 67
    """Values before this one were lost in the device's or server's queue."""
    UNCERTAIN_OUT_OF_RANGE = 68
    """The value lies outside the range the point declares."""
    UNCERTAIN_SUBSTITUTED = 69
    """The device itself marks the value as substituted or not current."""
    UNCERTAIN_CONFLICT = 70
    """Two different readings of one point at one time; this is the later one in the ledger."""
    BAD = 128
    BAD_NO_COMMUNICATION = 129
    """No connection to the device, or it closed the connection."""
    BAD_TIMEOUT = 130
    """Connected, but no answer in time."""
    BAD_EXCEPTION = 131
    """The device refused the request (a Modbus exception, a bad OPC-UA status)."""
    BAD_NONSENSE = 132
    """The device answered, but the answer makes no sense (length, NaN, invalid digits)."""
    BAD_CONFIGURATION = 133
    """The device says that this address or node does not exist."""
    BAD_DEVICE_FAILURE = 134
    """The device reports its own failure."""


FIRST_UNCERTAIN = 64
FIRST_BAD = 128


def is_good(code: int) -> bool:
    """Whether `code` is of the good class."""
    return code < FIRST_UNCERTAIN


def is_bad(code: int) -> bool:
    """Whether `code` is of the bad class, hence without a value."""
    return code >= FIRST_BAD


def label(code: int) -> str:
    """Lower-case name of a code; unknown codes are named by class and number."""
    try:
        return Quality(code).name.lower()
    except ValueError:
        kind = "good" if code < FIRST_UNCERTAIN else "uncertain" if code < FIRST_BAD else "bad"
        return f"{kind}_{code}"
