"""A switch that keeps every packet for a while: links of a Cluster where there is no netem.

    cluster_delay.py DELAY_S RATE PREFIX HOST...      RATE in bytes per second, 0: none

For each HOST (0 to 255) it makes a TAP device PREFIXHOST, to be moved into the host's namespace,
and gets a MAC address that ends in HOST there. It writes "ready" when all are made. What
comes from one leaves at another DELAY_S later, or as soon as RATE allows. It obeys lines on its
input, "cut HOST", and ends with it, and so do the devices.

It runs by itself (standard library only). The kernel hands over segments of TCP before they are
cut into packets, and their checksums undone (IFF_VNET_HDR): that is how Python carries gigabits.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import heapq
import os
import select
import signal
import struct
import sys
import time

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_OFFLOADS = 0x01 | 0x02 | 0x04  # checksums, segments of TCP over IPv4 and IPv6
_HEADER = struct.Struct("=BBHHHH")  # virtio_net_hdr: flags, kind, header length, segment size, ...
_LARGEST = _HEADER.size + 14 + 65536

_BURST = 96 * 1024  # bytes that a link takes at once beyond its rate: a large segment,
_BURST_S = 0.001  # or so much time of its rate, if that is more
QUEUE_S = 0.02  # the longest that a packet waits for its link; then it is dropped
_SWEEP = 64  # packets that are taken from a device at once


def burst(rate: float) -> int:
    """Bytes that such a link takes at once; few, or short messages would not see its rate."""
    return max(_BURST, round(rate * _BURST_S))


class Link:
    """The way to one host, with a token bucket as tbf has it."""

    def __init__(self, device: int, rate: float) -> None:
        self.device = device
        self.cut = False
        self._rate = rate
        self._burst_s = burst(rate) / rate if rate else 0.0
        self._full_at = 0.0  # when the bucket would have no debt

    def departure(self, arrival: float, frame: bytes) -> float | None:
        """When the frame leaves, or None when the queue is too long for it."""
        if self._rate == 0:
            return arrival
        debt = max(self._full_at, arrival)
        leaves = max(arrival, debt - self._burst_s)
        if leaves - arrival > QUEUE_S:
            return None
        self._full_at = debt + _length(frame) / self._rate
        return leaves


def _length(frame: bytes) -> int:
    """Bytes on the wire, where a large segment goes as several packets, each with its headers."""
    _, kind, headers, segment, _, _ = _HEADER.unpack_from(frame)
    length = len(frame) - _HEADER.size
    if kind == 0 or segment == 0:
        return length
    packets: int = (length - headers + segment - 1) // segment
    return length + int(headers) * (packets - 1)


def _open(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(device, _TUNSETOFFLOAD, _OFFLOADS)
    return device


def _prefer_this_process() -> None:
    """Ranks that spin on all cores must not hold up the packets."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    with contextlib.suppress(OSError), open("/proc/self/timerslack_ns", "w") as file:
        file.write("1")


class Switch:
    """All links, and the packets that are on their way."""

    def __init__(self, links: dict[int, Link], delay_s: float) -> None:
        self.links = links
        self._delay_s = delay_s
        self._host = {link.device: host for host, link in links.items()}
        self._way: list[tuple[float, int, int, bytes]] = []  # departure, number, device, frame
        self._number = 0

    def take(self, device: int) -> bool:
        """Take in what a device has, up to a sweep of it; False when it is gone."""
        source = self.links[self._host[device]]
        at = _HEADER.size  # where the destination's MAC address begins
        for _ in range(_SWEEP):
            try:
                frame = os.read(device, _LARGEST)
            except BlockingIOError:
                return True
            except OSError:  # with its host
                return False
            arrival = time.monotonic() + self._delay_s
            if source.cut:
                continue
            if frame[at] & 1:  # to everybody
                targets = [link for link in self.links.values() if link is not source]
            else:
                link = self.links.get(frame[at + 5])
                targets = [link] if link else []
            for link in targets:
                leaves = None if link.cut else link.departure(arrival, frame)
                if leaves is not None:
                    self._number += 1
                    heapq.heappush(self._way, (leaves, self._number, link.device, frame))
        return True

    def deliver(self) -> float | None:
        """Hand over what is due; returns the seconds until the next is, or None."""
        while self._way:
            wait_s = self._way[0][0] - time.monotonic()
            if wait_s > 0:
                return wait_s
            _, _, device, frame = heapq.heappop(self._way)
            with contextlib.suppress(OSError):  # the host is gone, or has no memory: a lost packet
                os.write(device, frame)
        return None


def main() -> None:
    """Serve until the input ends."""
    delay_s, rate, prefix = float(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the owner decides, by closing the input
    links = {int(host): Link(_open(prefix + host), rate) for host in sys.argv[4:]}
    switch = Switch(links, delay_s)
    print("ready", flush=True)
    _prefer_this_process()
    gc.disable()  # nothing here is in a cycle
    devices = [link.device for link in links.values()]
    while True:
        ready, _, _ = select.select([0, *devices], [], [], switch.deliver())
        for device in ready:
            if device:
                if not switch.take(device):
                    devices.remove(device)
                continue
            line = os.read(0, 4096).split()
            if not line:
                return
            for host in line[1::2]:  # "cut 1\ncut 2\n"
                links[int(host)].cut = True


if __name__ == "__main__":
    main()
