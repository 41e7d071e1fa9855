"""Quoit: a communication runtime for PyTorch.

``import quoit`` registers the ``torch.distributed`` backend ``"quoit"``, and under mpirun makes
``init_process_group("quoit")`` work with no exported variable. Nothing connects until then::

    import torch.distributed as dist
    import quoit

    dist.init_process_group("quoit")

Without torch, :class:`quoit.Communicator` does the same collectives on NumPy arrays.
"""

import os as _os
import sys as _sys
import typing as _typing
from contextlib import suppress as _suppress
from importlib.metadata import version as _version

from quoit import launch as _launch
from quoit._core import Error, TimeoutError, TransportError, UnavailableError, UsageError
from quoit._core import cuda_built as _cuda_built
from quoit.codecs import Auto, Bf16, Fp8, Int4, Int8, LowRank, Sign, TopK
from quoit.communicator import Communicator
from quoit.work import Work

if _typing.TYPE_CHECKING:
    from quoit.compression import CompressionState as CompressionState
    from quoit.compression import compress as compress
    from quoit.compression import compression_hook as compression_hook
    from quoit.compression_calls import all_reduce as all_reduce
    from quoit.compression_sharded import ShardedState as ShardedState

# What works on torch's tensors comes with torch, when it is asked for.
_WITH_TORCH = {
    "CompressionState": "quoit.compression",
    "ShardedState": "quoit.compression_sharded",
    "all_reduce": "quoit.compression_calls",
    "compress": "quoit.compression",
    "compression_hook": "quoit.compression",
}

__all__ = [
    "Auto",
    "Bf16",
    "Communicator",
    "Error",
    "Fp8",
    "Int4",
    "Int8",
    "LowRank",
    "Sign",
    "TimeoutError",
    "TopK",
    "TransportError",
    "UnavailableError",
    "UsageError",
    "Work",
    "__cuda__",
    "__version__",
]
__version__ = _version("quoit")
__cuda__ = _cuda_built()  # "CUDA 13.0: sm_80, sm_90, PTX"; "" in a build without

# A contradictory environment is reported where it matters: when a group is made.
with _suppress(_launch.LaunchError):
    if (_started_by := _launch.detect()) is not None:
        _launch.export(_started_by)

# A later `import torch` registers the backend by itself, through the entry point `torch.backends`;
# importing torch here would make torch-free programs slow to start.
if "torch" in _sys.modules or _os.environ.get("TORCH_DEVICE_BACKEND_AUTOLOAD") == "0":
    from quoit import backend as _backend

    _backend.register()


def __getattr__(name: str) -> object:
    import importlib

    if name not in _WITH_TORCH:
        raise AttributeError(f"module 'quoit' has no attribute '{name}'")
    return getattr(importlib.import_module(_WITH_TORCH[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_WITH_TORCH})
