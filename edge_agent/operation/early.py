"""A stop that comes while the agent is still loading: it ends at once and in order, since nothing has begun.

Imported before everything else by the command line, because loading takes most of a second on a small gateway.
`runtime` puts its own handlers in place of these.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if sys.argv[1:2] == ["run"]:
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    # The configuration has yet to be read, so there is nothing to read again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
