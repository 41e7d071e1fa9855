"""Quoit: a communication runtime for PyTorch.

``import quoit`` registers the ``torch.distributed`` backend ``"quoit"``, and under mpirun makes
``init_process_group("quoit")`` work with no exported variable. Nothing connects until then::

    import torch.distributed as dist
    import quoit

    dist.init_process_group("quoit")

Without torch, :class:`quoit.Communicator` does the same collectives on NumPy arrays.
"""

from importlib.metadata import version as _version
from importlib.util import find_spec as _find_spec

from quoit import launch as _launch
from quoit._core import Error, TimeoutError, TransportError, UnavailableError, UsageError
from quoit.communicator import Communicator, Work

__all__ = [
    "Communicator",
    "Error",
    "TimeoutError",
    "TransportError",
    "UnavailableError",
    "UsageError",
    "Work",
    "__version__",
]
__version__ = _version("quoit")

_started_by = _launch.detect()
if _started_by is not None:
    _launch.export(_started_by)
if _find_spec("torch") is not None:
    from quoit import backend as _backend

    _backend.register()
