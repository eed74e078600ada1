"""A VFS on which power can fail: what was not synced survives by chance, sector by sector."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

import apsw

SECTOR = 512


class Power:
    """The disk's state: what is durable, and what was written since each file's last sync."""

    def __init__(self) -> None:
        self.durable: dict[str, bytes] = {}
        self.pending: dict[str, list[tuple[int, bytes | None]]] = {}
        self.deleted: set[str] = set()
        self.calls = 0
        self.cut_at = 0         # the call at which the power fails; 0 = never
        self.off = False

    def call(self) -> None:
        """One more write, sync or truncation reaches the disk."""
        if self.off:
            raise apsw.IOError("the power is off")
        self.calls += 1
        if self.calls == self.cut_at:
            self.off = True
            raise apsw.IOError("the power fails")

    def image(self, folder: Path, rng: Random) -> None:
        """What a fresh start finds: synced data whole, of the rest some sectors."""
        keep = rng.random()
        for path, content in self.durable.items():
            if path in self.deleted and rng.random() < keep:
                continue
            data = bytearray(content)
            for offset, written in self.pending.get(path, []):
                if written is None:
                    if rng.random() < keep:
                        del data[offset:]
                    continue
                for start in range(0, len(written), SECTOR):
                    if rng.random() < keep:
                        put(data, offset + start, written[start:start + SECTOR])
            (folder / os.path.basename(path)).write_bytes(bytes(data))


def put(data: bytearray, offset: int, written: bytes) -> None:
    """Write into a file's bytes; a hole before them is zeros."""
    if len(data) < offset:
        data.extend(bytes(offset - len(data)))
    data[offset:offset + len(written)] = written


class PowerVFS(apsw.VFS):
    """The default VFS with a Power behind it."""

    def __init__(self, name: str, power: Power) -> None:
        self.power = power
        super().__init__(name, "")

    def xOpen(self, name: apsw.URIFilename | str | None,
              flags: list[int]) -> apsw.VFSFile:
        return PowerFile(self.power, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self.power.call()
        super().xDelete(filename, syncdir)
        self.power.pending.pop(filename, None)
        if syncdir:
            self.power.durable.pop(filename, None)
        else:
            self.power.deleted.add(filename)


class PowerFile(apsw.VFSFile):
    """A file whose writes are durable at its sync only. The wal-index is rebuilt, not kept."""

    def __init__(self, power: Power, name: apsw.URIFilename | str | None, flags: list[int]) -> None:
        self.power = power
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self.path = "" if path.endswith("-shm") else path
        super().__init__("", name, flags)
        if self.path and (path not in power.durable or path in power.deleted):
            power.deleted.discard(path)
            power.durable[path] = Path(path).read_bytes() if os.path.exists(path) else b""
            power.pending[path] = []

    def xWrite(self, data: bytes, offset: int) -> None:
        if self.path:
            self.power.call()
            self.power.pending.setdefault(self.path, []).append((offset, bytes(data)))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self.path:
            self.power.call()
            self.power.pending.setdefault(self.path, []).append((newsize, None))
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        del flags
        if not self.path:
            return
        self.power.call()
        data = bytearray(self.power.durable.get(self.path, b""))
        for offset, written in self.power.pending.get(self.path, []):
            if written is None:
                del data[offset:]
            else:
                put(data, offset, written)
        self.power.durable[self.path] = bytes(data)
        self.power.pending[self.path] = []

    def xDeviceCharacteristics(self) -> int:
        return 0

    def xSectorSize(self) -> int:
        return SECTOR
