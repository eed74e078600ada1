"""The agent's own place among the control groups.

In version 2 a group with processes of its own cannot give limits to groups below it; so where the
service manager has delegated the agent's group, the agent moves into a leaf of it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LEAF = "agent"


def settle() -> bool:
    """Move into the leaf; False where nothing was delegated, or it is refused."""
    with suppress(OSError, StopIteration):
        own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines()
                   if line.startswith("0::"))
        mount = next(line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()
                     if line.split()[2] == "cgroup2")
        group = Path(mount + own)
        if os.getxattr(group, "user.delegate") != b"1":
            return False
        (group / LEAF).mkdir(exist_ok=True)
        (group / LEAF / "cgroup.procs").write_text(str(os.getpid()))
        return True
    return False
