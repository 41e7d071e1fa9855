"""The addresses at which other hosts can reach this one."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


@dataclass(frozen=True)
class Interface:
    """One address of one network interface."""

    name: str
    address: IPv4Address | IPv6Address


def interfaces() -> list[Interface]:
    """Every IPv4 and IPv6 address of this host, loopback included, in the kernel's order."""
    from quoit import _core

    return [Interface(name, ip_address(address)) for name, address in _core.interfaces()]


def reachable(found: Sequence[Interface], chosen: str = "") -> list[Interface]:
    """Those of `found` that another host may connect to, narrowed by QUOIT_IFACE's value.

    chosen: names joined by commas ("eth0,ib0"), or with a "^" names to leave out
    ("eth0,^docker0"), all of them where the list begins with it ("^docker0,virbr0"); "" takes all.
    Loopback and link-local IPv6 addresses mean something else on another host: they are left out,
    unless loopback is asked for by its name. Raises ValueError when a name that was asked for does
    not exist.
    """
    from quoit import _core

    plain = [(one.name, str(one.address)) for one in found]
    return [
        Interface(name, ip_address(address)) for name, address in _core.reachable(plain, chosen)
    ]


def own_hosts() -> list[str]:
    """Addresses of this host that QUOIT_IFACE allows, as others should try them; last its name."""
    found = reachable(interfaces(), os.environ.get("QUOIT_IFACE", ""))
    return [*(str(one.address) for one in found), socket.gethostname()]
