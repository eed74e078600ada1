"""Pure but for the file that it reads: whether an uploaded app is one, and what it says of itself.

A zip with start.sh and meta.ini at its root. Whatever could do harm when it is unpacked is refused
here: names that lead out of the folder, links and devices, what is encrypted, more than it says,
and what grows beyond all measure.

Source: APPNOTE.TXT 6.3 (PKWARE) for the zip format; behaviour of unzip and zipfile tried.
"""

from __future__ import annotations

import re
import stat
import zipfile
import zlib
from pathlib import Path
from typing import Final

import msgspec

from plumd.errors import Invalid
from plumd.store.apps import PortDecl

ENTRIES_MAX: Final = 50_000
UNPACKED_BYTES_MAX: Final = 8 << 30
RATIO_MAX: Final = 200
RATIO_FREE_BYTES: Final = 10 << 20
"""Below this size a zip may be packed as tightly as it likes."""
META_BYTES_MAX: Final = 64 << 10
NAME_BYTES_MAX: Final = 1_000
DEPTH_MAX: Final = 50
PORTS_MAX: Final = 100
START, META = "start.sh", "meta.ini"
METHODS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2,
                            zipfile.ZIP_LZMA})
UNIX: Final = 3
LOCAL_HEAD_BYTES: Final = 30
CHUNK: Final = 1 << 20

_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,99}")
_SERVICE: Final = re.compile(r"[^\s:][^:]{0,199}")
_PROTOCOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")


class Meta(msgspec.Struct, frozen=True):
    """What meta.ini says."""

    name: str
    version: str
    ports: tuple[PortDecl, ...] = ()


def refuse(detail: str) -> Invalid:
    """The error of an upload that is no app."""
    return Invalid(detail, field="file")


def parse_meta(text: str) -> Meta:
    """`key=value` or `key: value` a line, `#` and `;` begin comments, no sections.

    Keys match whatever their case; of name and version the last one counts; unknown ones are
    passed over. Raises: Invalid.
    """
    found: dict[str, str] = {}
    ports: list[PortDecl] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;[":
            continue
        cut = min((at for at in (line.find("="), line.find(":")) if at > 0), default=-1)
        if cut < 0:
            raise refuse(f"meta.ini line {number} is not key=value")
        key, value = line[:cut].strip().lower(), line[cut + 1:].strip()
        if key == "service":
            ports.append(parse_service(value, number))
        else:
            found[key] = value
    for key in ("name", "version"):
        if not _WORD.fullmatch(found.get(key, "")):
            raise refuse(f"meta.ini has no {key} of 1 to 100 letters, digits and ._+- that "
                         "begins with a letter or digit")
    if len(ports) > PORTS_MAX:
        raise refuse(f"meta.ini names more than {PORTS_MAX} services")
    if len({(one.service, one.protocol, one.port) for one in ports}) < len(ports):
        raise refuse("meta.ini names a service twice")
    return Meta(found["name"], found["version"], tuple(ports))


def parse_service(text: str, number: int) -> PortDecl:
    """`name:protocol:port`. number: of its line. Raises: Invalid."""
    parts = [part.strip() for part in text.split(":")]
    if len(parts) == 3 and _SERVICE.fullmatch(parts[0]) and parts[0].isprintable() \
            and _PROTOCOL.fullmatch(parts[1]) and parts[2].isascii() and parts[2].isdigit() \
            and len(parts[2]) <= 5 and 1 <= int(parts[2]) <= 65_535:
        return PortDecl(parts[0], parts[1], int(parts[2]))
    raise refuse(f"meta.ini line {number}: a service is written name:protocol:port")


def inspect(path: Path) -> Meta:
    """Read an uploaded file through and through; it may be unpacked when this returns.

    Slow for a large one: for a thread. Raises: Invalid.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            items = archive.infolist()
            check_list(items)
            check_heads(archive, items)
            check_content(archive, items, path.stat().st_size)
            meta = archive.read(META)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, EOFError, NotImplementedError,
            RuntimeError, ValueError, OverflowError, OSError, MemoryError) as error:
        # All that zipfile says to a hostile file; NotImplementedError: to an unknown packing.
        raise refuse(f"the file is no zip that can be read: {error}") from None
    try:
        return parse_meta(meta.decode())
    except UnicodeDecodeError:
        raise refuse("meta.ini is not UTF-8") from None


def check_list(items: list[zipfile.ZipInfo]) -> None:
    """What the directory at the end of a zip says. Raises: Invalid."""
    if len(items) > ENTRIES_MAX:
        raise refuse(f"the zip has more than {ENTRIES_MAX:,} entries")
    seen: dict[str, bool] = {}
    for item in items:
        parts = check_name(item)
        name = "/".join(parts)
        if name in seen:
            raise refuse(f"the zip has {shown(name)} twice")
        seen[name] = item.is_dir()
        if item.flag_bits & 0x41:
            raise refuse(f"{shown(name)} is encrypted")
        if item.compress_type not in METHODS:
            raise refuse(f"{shown(name)} is packed by a method that is not known")
        kind = stat.S_IFMT(item.external_attr >> 16)
        if item.create_system == UNIX and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse(f"{shown(name)} is a link or a device")
    for name in seen:
        above = name
        while "/" in above:
            above = above.rpartition("/")[0]
            if seen.get(above) is False:
                raise refuse(f"{shown(above)} is a file and a folder")
    for wanted in (START, META):
        if seen.get(wanted) is not False:
            raise refuse(f"the zip has no {wanted} at its root")
    if next(item for item in items if item.filename == META).file_size > META_BYTES_MAX:
        raise refuse(f"meta.ini is larger than {META_BYTES_MAX} bytes")
    if sum(item.file_size for item in items) > UNPACKED_BYTES_MAX:
        raise refuse(f"unpacked it is larger than {UNPACKED_BYTES_MAX} bytes")


def check_name(item: zipfile.ZipInfo) -> list[str]:
    """The parts of an entry's path, which stays in the folder. Raises: Invalid."""
    name = item.orig_filename
    if ("\0" in name or "\\" in name or not name.isprintable()
            or len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX):
        raise refuse(f"the zip has an entry with a bad name, {shown(name)}")
    parts = name.removesuffix("/").split("/")
    if (name.startswith("/") or re.match(r"[A-Za-z]:", name) or len(parts) > DEPTH_MAX
            or any(part in ("", ".", "..") for part in parts)):
        raise refuse(f"{shown(name)} leads out of the folder, or is no plain path")
    return parts


def check_heads(archive: zipfile.ZipFile, items: list[zipfile.ZipInfo]) -> None:
    """No two entries may share bytes of the file: that is how small bombs are made.

    Raises: Invalid.
    """
    end = 0
    for item in sorted(items, key=lambda one: one.header_offset):
        if item.header_offset < end:
            raise refuse(f"{shown(item.filename)} lies inside another entry")
        end = item.header_offset + LOCAL_HEAD_BYTES + item.compress_size
    if end > archive.start_dir:
        raise refuse("the zip's entries reach into its directory")


def check_content(archive: zipfile.ZipFile, items: list[zipfile.ZipInfo],
                  file_bytes: int) -> None:
    """Every byte is there, none more than was said, and its checksum is right. Raises: Invalid."""
    total = 0
    most = max(RATIO_FREE_BYTES, RATIO_MAX * file_bytes)
    for item in items:
        size = 0
        with archive.open(item) as file:
            while chunk := file.read(CHUNK):
                size += len(chunk)
                total += len(chunk)
                if size > item.file_size:
                    raise refuse(f"{shown(item.filename)} is larger than it says")
                if total > most:
                    raise refuse(f"it grows to more than {RATIO_MAX} times its size")
        if size != item.file_size:
            raise refuse(f"{shown(item.filename)} is shorter than it says")


def shown(name: str) -> str:
    """A name as a message may carry it."""
    return repr(name[:100])
