"""`quoit plan`: what collectives and training steps take on hosts that nobody has to own yet."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from quoit import _core, plan_published, plan_report, tune, units
from quoit.plan_model import MOST_RANKS, RATIOS, Codec, Links, Shape, Training

_T = TypeVar("_T")
OPS = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all")
SIZES = "1K,16K,256K,1M,4M,16M,64M,256M"


def configure(parser: argparse.ArgumentParser) -> None:
    """Describe the command line of `quoit plan`."""
    shape = parser.add_argument_group("ranks")
    shape.add_argument(
        "--hosts",
        default="2",
        metavar="N|A..B|A,B,...",
        help="how many; A..B doubles from A to B. What is recommended is for the last "
        "(default: %(default)s)",
    )
    shape.add_argument(
        "--ranks-per-host", default="1", metavar="N", help="ranks of each (default: %(default)s)"
    )
    links = parser.add_argument_group(
        "links", "default: the file of `quoit tune`, or else an ordinary machine with 10 Gbit/s"
    )
    links.add_argument("--costs", metavar="FILE", help="what `quoit tune` wrote")
    links.add_argument("--alpha", metavar="TIME", help="of a message between hosts: 5us")
    links.add_argument("--bandwidth", metavar="RATE", help="of a host's link: 10gbit, 3GB/s")
    links.add_argument("--host-alpha", metavar="TIME", help="of a round inside a host: 1us")
    links.add_argument("--host-bandwidth", metavar="RATE", help="between ranks of a host: 10GB/s")
    links.add_argument("--add-rate", metavar="RATE", help="of adding up: 20GB/s")
    what = parser.add_argument_group("collective")
    what.add_argument("--op", default="all_reduce", help=f"{', '.join(OPS)} (default: %(default)s)")
    what.add_argument("--sizes", default=SIZES, metavar="A,B,...", help="(default: %(default)s)")
    step = parser.add_argument_group("training step with DDP; it needs the first two")
    step.add_argument("--parameters", metavar="N", help="of the model: 25M, 7B")
    step.add_argument(
        "--backward", metavar="TIME", help="computing the gradients, on one rank: 90ms"
    )
    step.add_argument("--forward", default="0", metavar="TIME", help="(default: half of that)")
    step.add_argument(
        "--other", default="0", metavar="TIME", help="optimizer and so on (default: 0)"
    )
    step.add_argument(
        "--gradient-bytes", default="4", metavar="N", help="of a number (default: %(default)s)"
    )
    step.add_argument("--bucket", default="25M", metavar="SIZE", help="(default: %(default)s)")
    step.add_argument(
        "--overlap",
        default="1",
        metavar="F",
        help="how much of backward goes on meanwhile: 1: all, as when a network card moves the "
        "data; 0: nothing, as when the same cores do (default: %(default)s)",
    )
    step.add_argument(
        "--curve",
        metavar="T:G,...",
        help="parts of backward and of the gradients that are there by then; 0.05:0.9 where nine "
        "tenths come at once (default: evenly)",
    )
    step.add_argument(
        "--compress",
        default=",".join(RATIOS),
        metavar="NAMES",
        help="between hosts: none, bf16, int8, int4, or NAME:RATIO (default: all four)",
    )
    step.add_argument(
        "--codec-rate",
        default="9GB/s",
        metavar="RATE",
        help="of gradients, encoded and decoded on one rank (default: %(default)s)",
    )
    out = parser.add_argument_group("report")
    out.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    out.add_argument("--plot", type=Path, metavar="FILE", help="draw it there (.png, .svg, .pdf)")
    out.add_argument(
        "--published", action="store_true", help="instead: predictions beside published figures"
    )


def main(options: argparse.Namespace) -> int:
    """Returns 0. Raises ValueError with what is wrong with the command line."""
    if options.published:
        print(plan_published.table(), end="")
        return 0
    shapes = _shapes(options)
    links = _links(options)
    if options.op not in OPS:
        raise ValueError(f"--op {options.op}: choose {', '.join(OPS)}")
    sizes = [_read("--sizes", units.size, part) for part in options.sizes.split(",")]
    if min(sizes) < 1:
        raise ValueError(f"--sizes {options.sizes}: a collective has at least one byte")
    training = _training(options)
    report = plan_report.make(
        links, shapes, options.op, sorted(set(sizes)), training, _codecs(options)
    )
    plan_report.show(report, sys.stdout)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n")
    if options.plot:
        plan_report.draw(report, options.plot)
    return 0


def _read(option: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def _shapes(options: argparse.Namespace) -> list[Shape]:
    local = _whole("--ranks-per-host", options.ranks_per_host)
    shapes = [Shape(hosts, local) for hosts in _hosts(options.hosts)]
    if shapes[-1].ranks < 2 or max(shape.ranks for shape in shapes) > MOST_RANKS:
        raise ValueError(
            f"--hosts {options.hosts} --ranks-per-host {local}: {shapes[-1].ranks} ranks; "
            f"a plan is for 2 to {MOST_RANKS}"
        )
    return shapes


def _hosts(text: str) -> list[int]:
    if ".." not in text:
        return [_whole("--hosts", part) for part in text.split(",")]
    first, last = (_whole("--hosts", part) for part in text.split("..", 1))
    if first > last:
        raise ValueError(f"--hosts {text}: from fewer to more")
    hosts = [first]
    while hosts[-1] * 2 < last:
        hosts.append(hosts[-1] * 2)
    return hosts if hosts[-1] == last else [*hosts, last]


def _whole(option: str, text: str) -> int:
    value = _read(option, units.count, text)
    if value < 1:
        raise ValueError(f"{option} {text}: give a whole number, at least 1")
    return value


def _links(options: argparse.Namespace) -> Links:
    found = tune.find(options.costs)
    costs = _core.read_costs(str(found)) if found else _core.Costs()
    source = str(found) if found else "an ordinary machine with a network of 10 Gbit/s"
    links = Links(
        costs.host_alpha, costs.host_beta, costs.net_alpha, costs.net_beta, costs.gamma, source
    )
    given: dict[str, float] = {}
    for name, option in (("net_alpha", "alpha"), ("host_alpha", "host_alpha")):
        if text := getattr(options, option):
            given[name] = _read(f"--{option.replace('_', '-')}", units.seconds, text)
    rates = (("net_beta", "bandwidth"), ("host_beta", "host_bandwidth"), ("gamma", "add_rate"))
    for name, option in rates:
        if text := getattr(options, option):
            rate = _read(f"--{option.replace('_', '-')}", units.bytes_per_second, text)
            given[name] = 1 / rate
    if not given:
        return links
    rest = "" if len(given) == 5 else f", the rest from {source}"
    return replace(links, **given, source=f"the command line{rest}")


def _training(options: argparse.Namespace) -> Training | None:
    if options.parameters is None and options.backward is None:
        return None
    if options.parameters is None or options.backward is None:
        raise ValueError("a training step needs both --parameters and --backward")
    backward = _read("--backward", units.seconds, options.backward)
    forward = _read("--forward", units.seconds, options.forward)
    bucket = _read("--bucket", units.size, options.bucket)
    if bucket < 1:
        raise ValueError(f"--bucket {options.bucket}: a bucket has at least one byte")
    return Training(
        gradient_bytes=_whole("--parameters", options.parameters)
        * _whole("--gradient-bytes", options.gradient_bytes),
        backward=backward,
        forward=forward or backward / 2,
        other=_read("--other", units.seconds, options.other),
        bucket_bytes=bucket,
        overlap=_part("--overlap", options.overlap),
        curve=_curve(options.curve) if options.curve else ((1.0, 1.0),),
    )


def _part(option: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ValueError(f"{option} {text}: give a number from 0 to 1")
    return value


def _curve(text: str) -> tuple[tuple[float, float], ...]:
    points = [(0.0, 0.0)]
    for point in text.split(","):
        time, colon, gradients = point.partition(":")
        if not colon:
            raise ValueError(f"--curve {text}: give points as 0.05:0.9")
        points.append((_part("--curve", time), _part("--curve", gradients)))
    if points[-1] != (1.0, 1.0):
        points.append((1.0, 1.0))
    if points != sorted(points) or [g for _, g in points] != sorted(g for _, g in points):
        raise ValueError(f"--curve {text}: both numbers of a point must grow from one to the next")
    return tuple(points[1:])


def _codecs(options: argparse.Namespace) -> list[Codec]:
    rate = _read("--codec-rate", units.bytes_per_second, options.codec_rate)
    return [_codec(text, 1 / rate) for text in options.compress.split(",")]


def _codec(text: str, seconds_per_byte: float) -> Codec:
    name, colon, given = text.partition(":")
    try:
        ratio = float(given) if colon else RATIOS[name]
        if not 1 <= ratio < float("inf"):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(
            f"--compress {text}: choose {', '.join(RATIOS)}, or give a ratio, as in topk:50"
        ) from None
    return Codec(name, ratio, seconds_per_byte if ratio > 1 else 0.0)
