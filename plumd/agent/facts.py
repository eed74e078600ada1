"""What a node is and how busy it is, as the heartbeat tells it. Bytes, and percent 0 .. 100."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil


class Facts(msgspec.Struct, frozen=True, rename="camel"):
    """The node's facts. cpu_percent: of all processors, since the last look.  disk_total,
    disk_free: 0 while the disk cannot be looked at."""

    cpus: int
    cpu_percent: float
    mem_total: int
    mem_available: int
    disk_total: int
    disk_free: int
    load1: float
    os: str
    arch: str
    boot_id: str


def boot_id() -> str:
    """Drawn by the kernel at each boot; "" where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def look(data_dir: Path) -> Facts:
    """The facts now; data_dir: the disk that counts."""
    memory, machine, total, free = psutil.virtual_memory(), os.uname(), 0, 0
    with suppress(OSError):
        disk = psutil.disk_usage(str(data_dir))
        total, free = disk.total, disk.free
    return Facts(
        cpus=psutil.cpu_count() or 1, cpu_percent=psutil.cpu_percent(interval=None),
        mem_total=memory.total, mem_available=memory.available, disk_total=total, disk_free=free,
        load1=os.getloadavg()[0], os=platform.system(),
        arch=machine.machine, boot_id=boot_id())
