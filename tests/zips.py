"""Apps for tests, good and hostile."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping

META = "name=radar\nversion=1.0\n"


def zipped(files: Mapping[str, bytes | str], *, method: int = zipfile.ZIP_DEFLATED,
           modes: Mapping[str, int] | None = None) -> bytes:
    """A zip of these files. modes: st_mode of some of them."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in files.items():
            item = zipfile.ZipInfo(name)
            item.compress_type = method
            item.create_system = 3
            item.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(item, content)
    return out.getvalue()


def app(name: str = "radar", version: str = "1.0", start: str = "#!/bin/sh\nexec sleep 1000\n",
        services: str = "", **files: bytes | str) -> bytes:
    """An app. services: lines of meta.ini."""
    return zipped({"start.sh": start, "meta.ini": f"name={name}\nversion={version}\n{services}",
                   **files}, modes={"start.sh": stat.S_IFREG | 0o755})


def hostile() -> dict[str, bytes]:
    """What it is -> a zip that must be refused."""
    good: dict[str, bytes | str] = {"start.sh": "#!/bin/sh\n", "meta.ini": META}
    big = bytes(30 << 20)
    found = {
        "no zip": b"this is no zip", "nothing": b"", "cut off": app()[:-30],
        "no start.sh": zipped({"meta.ini": META}), "no meta.ini": zipped({"start.sh": ""}),
        "start.sh below": zipped({"x/start.sh": "", "meta.ini": META}),
        "start.sh is a folder": zipped({"start.sh/": "", "meta.ini": META}),
        "no name": zipped({**good, "meta.ini": "version=1\n"}),
        "no version": zipped({**good, "meta.ini": "name=x\n"}),
        "a bad name": zipped({**good, "meta.ini": "name=../x\nversion=1\n"}),
        "no key": zipped({**good, "meta.ini": META + "what is this\n"}),
        "a bad port": zipped({**good, "meta.ini": META + "service=a:http:70000\n"}),
        "a bad service": zipped({**good, "meta.ini": META + "service=a\n"}),
        "no utf-8": zipped({**good, "meta.ini": b"name=\xff\nversion=1\n"}),
        "a large meta.ini": zipped({**good, "meta.ini": META + "#" * 70_000}),
        "a bomb": zipped({**good, "zero": big}),
        "wrong checksum": broken_checksum(),
        "encrypted": encrypted(), "larger than said": larger_than_said(), "overlap": overlapping(),
    }
    for name in ("/etc/passwd", "../x", "a/../../x", "a//b", "./x", "C:/x", "a\\..\\b", "a/./b",
                 "bell\x07", "d/" * 60 + "x", "n" * 1_100):
        found[f"the name {name[:20]!r}"] = zipped({**good, name: "x"})
    found["NUL"] = zipped({**good, "aQb": "x"}).replace(b"aQb", b"a\0b")
    found["a name twice"] = zipped({**good, "aQ": "x", "aR": "y"}).replace(b"aR", b"aQ")
    found["a file and folder"] = zipped({**good, "a": "x", "a/b": "y"})
    for word, kind in (("a link", stat.S_IFLNK), ("a device", stat.S_IFCHR),
                       ("a fifo", stat.S_IFIFO)):
        found[word] = zipped({**good, "x": "/etc/passwd"}, modes={"x": kind | 0o777})
    return found


def changed(data: bytes, name: bytes, central: int, fmt: str, value: int,
            local: int | None = None) -> bytes:
    """A zip with one number changed in the directory's entry of a name, and in its local head."""
    out = bytearray(data)
    at = 0
    while (at := data.find(b"PK\x01\x02", at)) >= 0:
        if data[at + 46:at + 46 + len(name)] == name:
            struct.pack_into(fmt, out, at + central, value)
            if local is not None:
                struct.pack_into(fmt, out, struct.unpack_from("<I", data, at + 42)[0] + local,
                                 value)
        at += 4
    return bytes(out)


def encrypted() -> bytes:
    """One that says that start.sh is encrypted."""
    return changed(app(), b"start.sh", 8, "<H", 1, 6)


def broken_checksum() -> bytes:
    """One whose start.sh is not what was packed."""
    return changed(app(), b"start.sh", 16, "<I", zlib.crc32(b"other"), 14)


def larger_than_said() -> bytes:
    """One whose file says that it is small."""
    return changed(app(large=b"x" * 100_000), b"large", 24, "<I", 10, 22)


def overlapping() -> bytes:
    """One in which two names share the bytes of a file."""
    data = app(one=b"x" * 1000, two=b"y" * 1000)
    at = data.index(b"PK\x01\x02")
    while data[at + 46:at + 49] != b"one":
        at = data.index(b"PK\x01\x02", at + 4)
    return changed(data, b"two", 42, "<I", struct.unpack_from("<I", data, at + 42)[0])
