"""Torch's own distributed_test.py, as far as a name for the backend selects it; see torch_suite.py.

torch_suite_ranks.py MODE RESULTS LOG DEADLINE_S PATTERN

What torch reads at import (BACKEND, WORLD_SIZE, TEMP_DIR) is in the environment. Each test is
played by four ranks that are forked from this process.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
import unittest
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend as _Backend
from torch.distributed import distributed_c10d as c10d
from torch.testing._internal import common_distributed

from quoit import backend

NAME, MODE = os.environ["BACKEND"], sys.argv[1]


def _decide_early() -> None:
    """Skips are decided here, instead of by each of four ranks; there are no GPUs (torch_suite.py).

    torch leaves some tests out below 8 ranks, except with MPI: they run with 4.
    """

    def no_gpu(name: str) -> Callable[[Any], Any]:
        return unittest.skip(common_distributed.TEST_SKIPS[name].message)

    common_distributed.skip_if_no_gpu = no_gpu("no_cuda")
    common_distributed.skip_if_lt_x_gpu = lambda x, *, allow_cpu=False: no_gpu(f"multi-gpu-{x}")
    common_distributed.skip_if_small_worldsize = lambda function: function


class _Gloo(type):
    """The type of what stands in for c10d.ProcessGroupGloo."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, _Backend)

    def __call__(cls, store: Any, rank: int, size: int, timeout: timedelta) -> Any:
        options = c10d._DistributedBackendOptions()
        options.store, options.timeout = store, timeout
        options.group_rank, options.group_size = rank, size
        return backend._create(options, None)


def _stand_in_for_gloo() -> None:
    """Wherever torch would make a group of gloo's, and believes that it did, it makes one of ours.

    Except for the second group by which TORCH_DISTRIBUTED_DEBUG=DETAIL compares calls: that one is
    gloo's in real use too.
    """
    gloo, wrapper = c10d.ProcessGroupGloo, c10d._create_process_group_wrapper

    def with_gloo(*args: Any, **kwargs: Any) -> Any:
        with mock.patch.object(c10d, "ProcessGroupGloo", gloo):
            return wrapper(*args, **kwargs)

    _Backend.options = property(lambda _: SimpleNamespace())  # torch notes there what we know
    c10d.ProcessGroupGloo = _Gloo("ProcessGroupGloo", (), {})
    c10d._create_process_group_wrapper = with_gloo
    # DDP's log takes any group of that name for gloo's own class, unchecked, and reads its fields.
    dist.Logger.set_construction_data_and_log = lambda *_: None


def _stand_in_for_mpi() -> None:
    """The wheels of torch have no MPI to stand in for."""
    init = dist.init_process_group
    dist.init_process_group = lambda backend, **options: init("quoit", **options)


# Tests that ask for what a stand-in cannot give.
OURS = {
    "gloo": {"test_ddp_logging_data_cpu": "reads gloo's own fields out of what stands in for it"},
    "mpi": {"test_get_backend": "asks for the name that another stands in for"},
}

backend.register()
_decide_early()
FEATURES = common_distributed.DistTestCases.backend_feature
if MODE == "plugin":
    FEATURES["plugin"].add("quoit")  # torch's hook for backends that are not its own
if MODE in ("plugin", "mpi"):
    for feature in ("ddp", "subgroup"):
        FEATURES[feature].add(NAME)
if MODE == "gloo":
    _stand_in_for_gloo()
if MODE == "mpi":
    _stand_in_for_mpi()

from torch.testing._internal.distributed import distributed_test  # noqa: E402

# The events that torch's profiler shows begin with a backend's own name.
for supported in ("PROFILING_SUPPORTED_BACKENDS", "SEND_RECV_PROFILING_SUPPORTED_BACKENDS"):
    names = getattr(distributed_test, supported)
    names.append("quoit")
    if MODE == "gloo":
        names.remove("gloo")
# How long ranks wait for each other between tests: on a busy machine 10 s are not enough.
distributed_test.Barrier.sync.__func__.__defaults__ = (None, 60)  # type: ignore[attr-defined]


class TorchSuite(distributed_test.TestDistBackend, distributed_test.DistributedTest._DistTestBase):  # type: ignore[misc]
    def setUp(self) -> None:
        if reason := OURS.get(MODE, {}).get(self._testMethodName):
            self.skipTest(reason)
        super().setUp()
        # torch spawns its ranks: they would import torch and these tests anew for each test.
        self._start_processes(torch.multiprocessing.get_context("fork").Process)

    def test_ddp_logging_data_cpu(self) -> None:
        """torch logs "custom" where the test expects a plugin's name."""
        named = {} if MODE == "baseline" else {"get_backend": lambda _: "custom"}
        with mock.patch.multiple(dist, **named):
            super().test_ddp_logging_data_cpu()

    def _check_return_codes(self, fn: Any, elapsed_time: float) -> None:
        super()._check_return_codes(fn, elapsed_time)  # looks at rank 0 alone
        codes = [rank.exitcode for rank in self.processes]
        assert set(codes) == {0}, f"exit codes of the ranks: {codes}"

    def tearDown(self) -> None:
        ranks = self.processes
        super().tearDown()  # asks them to end
        for rank in ranks:
            rank.join(5)
            if rank.is_alive():
                rank.kill()


class _Results(unittest.TestResult):
    """One line of JSON for each test. What ranks that fail at their start say is in the log."""

    def __init__(self, path: str, log: str) -> None:
        super().__init__()
        self._file, self._log = open(path, "a", buffering=1), Path(log)  # noqa: SIM115
        self._began, self._logged = 0.0, 0

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self._began, self._logged = time.monotonic(), self._log.stat().st_size

    def _say(self, test: unittest.TestCase, outcome: str, words: str = "") -> None:
        seconds = round(time.monotonic() - self._began, 1)
        line = {"test": test._testMethodName, "outcome": outcome, "words": words, "s": seconds}
        self._file.write(json.dumps(line) + "\n")

    def addSuccess(self, test: unittest.TestCase) -> None:
        self._say(test, "passed")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self._say(test, "skipped", reason)

    def addError(self, test: unittest.TestCase, err: Any) -> None:
        words = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]
        if "and exception:" not in words:
            words += self._log.read_bytes()[self._logged :].decode(errors="replace")[-3000:]
        self._say(test, "failed", words)

    addFailure = addError


def main() -> None:
    results, log, deadline_s, pattern = sys.argv[2:]
    with open(log, "ab") as words:
        os.dup2(words.fileno(), 1)
        os.dup2(words.fileno(), 2)
    common_distributed.get_timeout = lambda _: float(deadline_s)
    names = unittest.TestLoader().getTestCaseNames(TorchSuite)
    suite = unittest.TestSuite(TorchSuite(name) for name in names if re.search(pattern, name))
    suite.run(_Results(results, log))


if __name__ == "__main__":
    main()
