"""NCCL for accelerator tensors: where libnccl may be, and what tells devices apart."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path

from quoit import _core

_FILE = "nccl/lib/libnccl.so.2"


def wanted(cuda: bool, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the ranks of a group shall ask each other for NCCL, for tensors of accelerators.

    cuda: whether torch was built for CUDA. Other accelerators have libraries with NCCL's interface,
    too: QUOIT_NCCL names one. With QUOIT_NCCL=off a rank asks as well, to say that it has none.
    """
    return cuda or bool(environ.get("QUOIT_NCCL"))


def libraries() -> list[str]:
    """Paths of the libnccl of installed wheels (nvidia-nccl-cu12, -cu13), best first.

    One that torch has loaded already, and one that QUOIT_NCCL names, come before these.
    """
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec is not None else None
    return [str(file) for folder in folders or [] if (file := Path(folder, _FILE)).is_file()]


def device_identity(kind: str, index: int) -> str:
    """A text that no other device of the job has: its UUID, else host and number.

    kind: a device type, as "cuda".
    """
    if kind == "cuda":
        import torch

        uuid = getattr(torch.cuda.get_device_properties(index), "uuid", None)
        if uuid is not None:
            return str(uuid)
    return f"{_core.host_identity()}/{kind}:{index}"
