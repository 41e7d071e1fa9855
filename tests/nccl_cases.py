"""All cases for NCCL on the test accelerator, to be played in one launch; see stage.py."""

from __future__ import annotations

import nccl_data_cases
import nccl_failure_cases
import nccl_stream_cases
from nccl_world import Case, group  # noqa: F401  (`group` is for stage.py)

_PARTS = (nccl_data_cases, nccl_stream_cases, nccl_failure_cases)
CASES: dict[str, Case] = {name: case for part in _PARTS for name, case in part.CASES.items()}
assert len(CASES) == sum(len(part.CASES) for part in _PARTS), "two cases have one name"
