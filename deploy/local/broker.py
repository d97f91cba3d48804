"""An MQTT broker on loopback: Mosquitto if it is on the machine, else amqtt from PyPI.

amqtt speaks MQTT 3.1.1 only and has no shared subscriptions, so agents and ingest are told which version
to use. Neither keeps anything on disk here: what a broker forgets, agents send again.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deploy.local.errors import StackError
from deploy.local.ports import free_port, wait_for_port
from deploy.local.processes import Child

Kind = Literal["mosquitto", "amqtt"]

_MOSQUITTO = """\
listener {port} {host}
allow_anonymous true
persistence false
max_queued_messages 0
max_inflight_messages 0
set_tcp_nodelay true
"""

_AMQTT = """\
listeners:
  default:
    type: tcp
    bind: {host}:{port}
plugins:
  amqtt.plugins.authentication.AnonymousAuthPlugin:
    allow_anonymous: true
"""


@dataclass(frozen=True)
class Broker:
    """A broker that can be started, killed and started again on the same port."""

    kind: Kind
    host: str
    port: int
    child: Child

    @property
    def mqtt_version(self) -> int:
        """Highest protocol version that it speaks: 5, or 3 for 3.1.1."""
        return 5 if self.kind == "mosquitto" else 3

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        self.child.start()
        wait_for_port(self.host, self.port, 20, f"broker {self.kind}")


def local_broker(directory: Path, host: str = "127.0.0.1", kind: Kind | None = None) -> Broker:
    """Prepare a broker on a free port; its config and log go to `directory`.

    Parameters
    ----------
    directory
        An existing directory.
    host
        Loopback address.
    kind
        Which one; None takes Mosquitto if it is installed.

    Raises
    ------
    StackError
        If Mosquitto is asked for and not installed.
    """
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    chosen: Kind = kind or ("mosquitto" if mosquitto else "amqtt")
    if chosen == "mosquitto" and mosquitto is None:
        raise StackError("Mosquitto is not installed on this machine; install it, or take amqtt")
    port = free_port(host)
    config = directory / f"{chosen}.conf"
    config.write_text((_MOSQUITTO if chosen == "mosquitto" else _AMQTT).format(host=host, port=port))
    command = (
        [str(mosquitto), "-c", str(config)]
        if chosen == "mosquitto"
        else [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
    )
    return Broker(chosen, host, port, Child(f"broker {chosen}", command, directory / f"{chosen}.log"))
