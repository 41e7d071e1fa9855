"""The addresses at which other hosts can reach this one."""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address


@dataclass(frozen=True)
class Interface:
    """One address of one network interface."""

    name: str
    address: IPv4Address | IPv6Address


class _Ifaddrs(ctypes.Structure):
    """The head of struct ifaddrs, see getifaddrs(3); `next` is declared by address alone."""

    _fields_ = (
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("flags", ctypes.c_uint),
        ("address", ctypes.c_void_p),
    )


def interfaces() -> list[Interface]:
    """Every IPv4 and IPv6 address of this host, loopback included, in the kernel's order."""
    libc = ctypes.CDLL(None, use_errno=True)
    head = ctypes.c_void_p()
    if libc.getifaddrs(ctypes.byref(head)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"getifaddrs: {os.strerror(error)}")
    try:
        return list(_walk(head.value))
    finally:
        libc.freeifaddrs(head)


def reachable(found: Sequence[Interface], chosen: str = "") -> list[Interface]:
    """Those of `found` that another host may connect to, narrowed by QUOIT_IFACE's value.

    chosen: names joined by commas ("eth0,ib0"), or names to leave out ("^docker0,virbr0"); ""
    takes all. Loopback and link-local IPv6 addresses are left out, for they mean something else on
    another host. Raises ValueError when a name that was asked for does not exist.
    """
    names = {name.strip() for name in chosen.removeprefix("^").split(",") if name.strip()}
    if not chosen.startswith("^") and (unknown := names - {one.name for one in found}):
        raise ValueError(
            f"QUOIT_IFACE={chosen} asks for {', '.join(sorted(unknown))}, but this host has "
            f"{', '.join(sorted({one.name for one in found}))}. Correct or unset QUOIT_IFACE."
        )
    excluded = chosen.startswith("^")
    return [
        one
        for one in found
        if not one.address.is_loopback
        and not (one.address.version == 6 and one.address.is_link_local)
        and (not names or (one.name in names) != excluded)
    ]


def _walk(pointer: int | None) -> Iterator[Interface]:
    while pointer:
        entry = _Ifaddrs.from_address(pointer)
        if entry.address:
            family = ctypes.c_ushort.from_address(entry.address).value
            # struct sockaddr_in: family, port, address; sockaddr_in6 has a flow label before it.
            if family == socket.AF_INET:
                packed = ctypes.string_at(entry.address + 4, 4)
                yield Interface(entry.name.decode(), ip_address(packed))
            elif family == socket.AF_INET6:
                packed = ctypes.string_at(entry.address + 8, 16)
                yield Interface(entry.name.decode(), ip_address(packed))
        pointer = entry.next
