"""Pure but for the file that it reads: whether an uploaded app is one, and what it says of itself.

A zip with start.sh and meta.ini at its root. Whatever could do harm when it is unpacked is refused
here: names that lead out of the folder, links and devices, what is encrypted, more than it says,
and what grows beyond all measure.

Source: APPNOTE.TXT 6.3 (PKWARE) for the zip format; behaviour of unzip and zipfile tried.
"""

from __future__ import annotations

import lzma
import re
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from plumd.errors import Invalid, reason
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

SAID: Final = {
    "no_zip": "the file is no zip, or not a whole one: {why}",
    "entries_many": "the zip has more than {max:,} entries",
    "name_bad": "the zip has an entry with a bad name, {name}",
    "path_leaves": "{name} leads out of the folder",
    "path_odd": "{name} is no plain path",
    "entry_twice": "the zip has {name} twice",
    "entry_file_and_folder": "{name} is a file and a folder",
    "entry_encrypted": "{name} is encrypted",
    "entry_packing": "{name} is packed by a method that is not known",
    "entry_link": "{name} is a link or a device",
    "entry_overlaps": "{name} lies inside another entry",
    "entry_longer": "{name} is larger than it says",
    "entry_shorter": "{name} is shorter than it says",
    "entries_in_directory": "the zip's entries reach into its directory",
    "zip_large": "unpacked it is larger than {max} bytes",
    "zip_bomb": "it grows to more than {max} times its size",
    "file_missing": "the zip has no {name} at its root",
    "file_below": "the zip has no {name} at its root, but {found}",
    "meta_large": "meta.ini is larger than {max} bytes",
    "meta_encoding": "meta.ini is not UTF-8",
    "meta_line": "meta.ini line {line} is not key=value",
    "meta_key": "meta.ini has no {key} of 1 to 100 letters, digits and ._+- that begins with a "
                "letter or digit",
    "meta_service": "meta.ini line {line}: a service is written name:protocol:port",
    "meta_services_many": "meta.ini names more than {max} services",
    "meta_service_twice": "meta.ini names a service twice",
}
"""Why an upload is refused: the code, which is part of the API, and how it is said."""
_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+ -]{0,99}")
_SERVICE: Final = re.compile(r"[^\s:][^:]{0,199}")
_PROTOCOL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}")


class Meta(msgspec.Struct, frozen=True):
    """What meta.ini says."""

    name: str
    version: str
    ports: tuple[PortDecl, ...] = ()


def refuse(code: str, **values: str | int) -> Invalid:
    """The error of an upload that is no app. values: what the sentence names."""
    return Invalid(SAID[code].format_map(values), field="file", more=reason(code, **values))


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
            raise refuse("meta_line", line=number)
        key, value = line[:cut].strip().lower(), line[cut + 1:].strip()
        if key == "service":
            ports.append(parse_service(value, number))
        else:
            found[key] = value
    for key in ("name", "version"):
        if not _WORD.fullmatch(found.get(key, "")):
            raise refuse("meta_key", key=key)
    if len(ports) > PORTS_MAX:
        raise refuse("meta_services_many", max=PORTS_MAX)
    if len({(one.service, one.protocol, one.port) for one in ports}) < len(ports):
        raise refuse("meta_service_twice")
    return Meta(found["name"], found["version"], tuple(ports))


def parse_service(text: str, number: int) -> PortDecl:
    """`name:protocol:port`. number: of its line. Raises: Invalid."""
    parts = [part.strip() for part in text.split(":")]
    if len(parts) == 3 and _SERVICE.fullmatch(parts[0]) and parts[0].isprintable() \
            and _PROTOCOL.fullmatch(parts[1]) and parts[2].isascii() and parts[2].isdigit() \
            and len(parts[2]) <= 5 and 1 <= int(parts[2]) <= 65_535:
        return PortDecl(parts[0], parts[1], int(parts[2]))
    raise refuse("meta_service", line=number)


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
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, EOFError,
            RuntimeError, ValueError, OverflowError, OSError, MemoryError) as error:
        # All that zipfile says to a hostile file; RuntimeError: to an unknown packing.
        raise refuse("no_zip", why=str(error)) from None
    try:
        return parse_meta(meta.decode())
    except UnicodeDecodeError:
        raise refuse("meta_encoding") from None


def check_list(items: list[zipfile.ZipInfo]) -> None:
    """What the directory at the end of a zip says. Raises: Invalid."""
    if len(items) > ENTRIES_MAX:
        raise refuse("entries_many", max=ENTRIES_MAX)
    seen: dict[str, bool] = {}
    for item in items:
        parts = check_name(item)
        name = "/".join(parts)
        if name in seen:
            raise refuse("entry_twice", name=shown(name))
        seen[name] = item.is_dir()
        if item.flag_bits & 0x41:
            raise refuse("entry_encrypted", name=shown(name))
        if item.compress_type not in METHODS:
            raise refuse("entry_packing", name=shown(name))
        kind = stat.S_IFMT(item.external_attr >> 16)
        if item.create_system == UNIX and kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise refuse("entry_link", name=shown(name))
    for name in seen:
        above = name
        while "/" in above:
            above = above.rpartition("/")[0]
            if seen.get(above) is False:
                raise refuse("entry_file_and_folder", name=shown(above))
    for wanted in (START, META):
        if seen.get(wanted) is not False:
            raise missing(wanted, seen)
    if next(item for item in items if item.filename == META).file_size > META_BYTES_MAX:
        raise refuse("meta_large", max=META_BYTES_MAX)
    if sum(item.file_size for item in items) > UNPACKED_BYTES_MAX:
        raise refuse("zip_large", max=UNPACKED_BYTES_MAX)


def check_name(item: zipfile.ZipInfo) -> list[str]:
    """The parts of an entry's path, which stays in the folder. Raises: Invalid."""
    name = item.orig_filename
    if ("\0" in name or "\\" in name or not name.isprintable()
            or len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX):
        raise refuse("name_bad", name=shown(name))
    parts = name.removesuffix("/").split("/")
    if name.startswith("/") or re.match(r"[A-Za-z]:", name) or ".." in parts:
        raise refuse("path_leaves", name=shown(name))
    if len(parts) > DEPTH_MAX or "" in parts or "." in parts:
        raise refuse("path_odd", name=shown(name))
    return parts


def missing(wanted: str, seen: Mapping[str, bool]) -> Invalid:
    """The error of a zip without a file; where a whole folder was packed, it says so."""
    below = min((name for name in seen if name.endswith(f"/{wanted}")), key=len, default="")
    return (refuse("file_below", name=wanted, found=shown(below)) if below
            else refuse("file_missing", name=wanted))


def check_heads(archive: zipfile.ZipFile, items: list[zipfile.ZipInfo]) -> None:
    """No two entries may share bytes of the file: that is how small bombs are made.

    Raises: Invalid.
    """
    end = 0
    for item in sorted(items, key=lambda one: one.header_offset):
        if item.header_offset < end:
            raise refuse("entry_overlaps", name=shown(item.filename))
        end = item.header_offset + LOCAL_HEAD_BYTES + item.compress_size
    if end > archive.start_dir:
        raise refuse("entries_in_directory")


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
                    raise refuse("entry_longer", name=shown(item.filename))
                if total > most:
                    raise refuse("zip_bomb", max=RATIO_MAX)
        if size != item.file_size:
            raise refuse("entry_shorter", name=shown(item.filename))


def shown(name: str) -> str:
    """A name as a message may carry it."""
    return repr(name[:100])
