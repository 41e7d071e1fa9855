"""The torch.distributed backend's native half. Use it through `init_process_group("quoit")`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

def create(
    store: Any,  # a c10d Store
    rank: int,
    size: int,
    timeout: float,
    mpi_library: str = "",
    mpi_size: int = 0,
    members: Sequence[int] = (),
    nccl_libraries: list[str] | None = None,
) -> dist.Backend: ...

class CompressionReport:
    """What compression did, added up over the calls of this rank."""

    def __init__(self) -> None: ...
    @property
    def calls(self) -> int: ...
    @property
    def plain_bytes(self) -> int: ...
    @property
    def sent_bytes(self) -> int: ...
    @property
    def codec_seconds(self) -> float: ...

class Part:
    """One tensor of a compressed buffer."""

    def __init__(
        self,
        count: int,
        codec: str,
        residual: Tensor | None = None,
        rows: int = 0,
        cols: int = 0,
        p: Tensor | None = None,
        q: Tensor | None = None,
        turn: Tensor | None = None,
    ) -> None: ...

class Compression:
    """How the tensors of a buffer are compressed, one after another."""

    def __init__(self, parts: Sequence[Part], report: CompressionReport) -> None: ...

def compressed_all_reduce(
    group: dist.Backend,
    tensor: Tensor,
    compression: Compression,
    mean: bool,
    unit: float = 1.0,
    seed: int = 0,
    fingerprint: int | None = None,
    async_op: bool = False,
) -> dist.Work | None: ...
def compressed_reduce_scatter(
    group: dist.Backend,
    input: Tensor,
    output: Tensor,
    compression: Compression,
    mean: bool,
    unit: float = 1.0,
    seed: int = 0,
    async_op: bool = False,
) -> dist.Work | None: ...
def compressed_all_gather(
    group: dist.Backend,
    tensor: Tensor,
    compression: Compression,
    seed: int = 0,
    async_op: bool = False,
) -> dist.Work | None: ...
def compressed_on_host(group: dist.Backend, device: torch.device) -> str: ...
def fingerprint(tensors: Sequence[Tensor]) -> int: ...
def device_route(group: dist.Backend) -> str: ...
def call_in_order(function: Callable[..., T], /, *arguments: Any) -> T: ...
def nccl_group(
    store: Any,  # a c10d Store
    rank: int,
    size: int,
    timeout: float,
    library_paths: Sequence[str],
    device_identity: str = "",
) -> dist.Backend: ...
def nccl_unusable(group: dist.Backend, device: torch.device) -> str: ...
