"""What others measured on large machines and published, beside what the model says of it.

All of it was NCCL, which is taken to have gone in one ring round all GPUs.

Every figure was read at the address that stands with it; docs/plan.md says what was assumed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from quoit import plan_model as model
from quoit.plan_model import Links, Shape, Step, Training

_GIST = "https://gist.github.com/jacobkahn/"
_DDP = (
    "https://github.com/pytorch/pytorch/blob/bf69c149b872e3c19ad493406a6d67ce3e97d716/"
    "benchmarks/distributed/ddp/README.md"
)
_HOROVOD = "https://github.com/ROCm/horovod/blob/master/docs/benchmarks.rst"


@dataclass(frozen=True)
class Published:
    """A figure, and the model's. unit: "us", "s", or "of 1" for an efficiency."""

    what: str
    source: str
    value: float
    unit: str
    predict: Callable[[], float]

    @property
    def error(self) -> float:
        """Of the prediction: 0.1 when it is a tenth too large."""
        return self.predict() / self.value - 1


# NCCL in a ring of 8 GPUs per machine, 8 bytes, out of place. Two machines give alpha.
_TWO_MACHINES_S = 163.4e-6
_NCCL_ALPHA = _TWO_MACHINES_S / (2 * (16 - 1))


def _nccl_ring(machines: int) -> float:
    links = Links(_NCCL_ALPHA, 0, _NCCL_ALPHA, 0, 0)
    return 1e6 * model.ways("all_reduce", 8, Shape(machines, 8), links, greeting=False)["ring"]


# Two machines of eight V100 with 4 x 100 Gbit/s each; 25 MiB buckets, float32.
_MILLIONS = {  # of parameters
    "ResNet-50": 25.56,
    "ResNet-101": 44.55,
    "ResNeXt-50": 25.03,
    "ResNeXt-101": 88.79,
    "VGG-16": 138.36,
    "Inception V3": 23.83,
}
_DGX = Links(5e-6, 1 / 50e9, _NCCL_ALPHA, 1 / 50e9, 1 / 400e9)


def _ddp(name: str, alone: float, bucket: int = 25 << 20) -> float:
    return _by_ring(_training(name, alone, bucket), Shape(2, 8), _DGX).seconds


def _by_ring(training: Training, shape: Shape, links: Links) -> Step:
    return model.simulate(
        training, lambda size: model.ways("all_reduce", size, shape, links, greeting=False)["ring"]
    )


def _training(name: str, compute: float, bucket: int) -> Training:
    return Training(
        gradient_bytes=round(4e6 * _MILLIONS[name]),
        backward=compute * 2 / 3,
        forward=compute / 3,
        bucket_bytes=bucket,
        curve=((0.02, 0.894), (1.0, 1.0)) if name == "VGG-16" else ((1.0, 1.0),),
    )


# Servers of four Pascal GPUs with 25 Gbit/s; 64 MiB is the size of Horovod's fusion buffer.
_ROCE = Links(5e-6, 1 / 10e9, _NCCL_ALPHA, 8 / 25e9, 1 / 200e9)


def _horovod(name: str, images_per_s: float, servers: int) -> float:
    training = _training(name, 64 / images_per_s, 64 << 20)
    return _by_ring(training, Shape(servers, 4), _ROCE).efficiency


_RESNET_101 = 1656.82 / 16  # images per second and GPU, on 4 such servers

FIGURES = (
    Published(
        "NCCL ring, 8 B, 4 machines of 8 GPUs",
        _GIST + "1fb3977e99056b7935a6c63dda1e145f",
        319.4,
        "us",
        lambda: _nccl_ring(4),
    ),
    Published(
        "NCCL ring, 8 B, 8 machines of 8 GPUs",
        _GIST + "3150a1a38abba40f58d8263d9c55969f",
        631.3,
        "us",
        lambda: _nccl_ring(8),
    ),
    Published("DDP ResNet-50, 16 GPUs", _DDP, 0.104, "s", lambda: _ddp("ResNet-50", 0.100)),
    Published("DDP ResNet-101, 16 GPUs", _DDP, 0.179, "s", lambda: _ddp("ResNet-101", 0.171)),
    Published("DDP ResNeXt-50, 16 GPUs", _DDP, 0.157, "s", lambda: _ddp("ResNeXt-50", 0.147)),
    Published("DDP ResNeXt-101, 16 GPUs", _DDP, 0.450, "s", lambda: _ddp("ResNeXt-101", 0.425)),
    Published(
        "Horovod VGG-16, 128 GPUs",
        "https://github.com/bobohuang/horovod",
        0.79,
        "of 1",
        lambda: _horovod("VGG-16", 154, 32),
    ),
    Published(
        "Horovod VGG-16, 512 GPUs", _HOROVOD, 0.68, "of 1", lambda: _horovod("VGG-16", 154, 128)
    ),
    Published(
        "Horovod ResNet-101, 512 GPUs",
        _HOROVOD,
        0.90,
        "of 1",
        lambda: _horovod("ResNet-101", _RESNET_101, 128),
    ),
    Published(
        "Horovod Inception V3, 512 GPUs",
        _HOROVOD,
        0.90,
        "of 1",
        lambda: _horovod("Inception V3", 142, 128),
    ),
)


def table() -> str:
    """For GitHub, as it stands in docs/plan.md."""
    lines = ["| what | published | predicted | error |", "|---|---|---|---|"]
    for one in FIGURES:
        unit = "" if one.unit == "of 1" else f" {one.unit}"
        digits = 0 if one.unit == "us" else 3 if one.unit == "s" else 2
        lines.append(
            f"| [{one.what}]({one.source}) | {one.value:.{digits}f}{unit} | "
            f"{one.predict():.{digits}f}{unit} | {one.error:+.0%} |"
        )
    return "\n".join(lines) + "\n"
