"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that the affinity mask and every CPU quota of the control groups allow; at least 1.

    A quota of two and a half cores counts as two. `root` is where /proc and /sys are looked for.
    """
    quota = cpu_quota(root)
    bound = len(os.sched_getaffinity(0))
    return bound if quota is None else max(1, int(min(bound, quota)))


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that the control groups allow; None when they set no limit."""
    quotas = [quota for group in _groups(root) if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> list[Path]:
    """Folders of the control groups that hold this process, and of the groups around them."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    mounts = root / "sys/fs/cgroup"
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # Inside a container the path may be the host's while the mount shows only our own group;
        # then the mount's top is the group to ask.
        mount = mounts / controllers if controllers else mounts
        own = PurePosixPath(path.lstrip("/"))
        folders += [mount / group for group in (own, *own.parents)]
    return folders


def _quota(group: Path) -> float | None:
    """Cores allowed by one group, as version 2 or version 1 of control groups writes it."""
    try:
        quota, period = (group / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (group / "cpu.cfs_quota_us").read_text().strip()
            period = (group / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return int(quota) / int(period) if quota.isdigit() and int(period) > 0 else None
