"""What the agent keeps of artifacts, and unpacks: any file, and a disk that is nearly full."""

from __future__ import annotations

import errno
import os
import random
import shutil
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import trio

from plumd.agent import artifacts
from plumd.agent.artifacts import Artifact, Artifacts, NotFetched, Refused, unpack
from plumd.agent.http import Http
from tests import zips
from tests.agent.acting import Controller, zipped

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
CONTROLLERS = frozenset({       # refused there, and of no harm here
    "no start.sh", "no meta.ini", "start.sh below", "start.sh is a folder", "no name", "no version",
    "a bad name", "no key", "a bad port", "a bad service", "no utf-8", "a large meta.ini", "a bomb",
    "overlap", "the name 'C:/x'", "the name 'bell\\x07'"})
HOSTILE = {what: data for what, data in zips.hostile().items() if what not in CONTROLLERS}


class Disk(NamedTuple):
    """What shutil says of one."""

    total: int
    used: int
    free: int


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_one_leaves_nothing(tmp_path: Path, what: str) -> None:
    archive = tmp_path / "in" / "a.zip"
    archive.parent.mkdir()
    archive.write_bytes(HOSTILE[what])
    try:
        unpack(archive, tmp_path / "in" / "app")
    except (Refused, OSError):
        assert everything(tmp_path) == {"in", "in/a.zip"}
    else:
        outside = {path for path in everything(tmp_path) if not path.startswith("in/app")}
        assert outside == {"in", "in/a.zip"}
        assert not [path for path in (tmp_path / "in").rglob("*")
                    if not path.is_dir() and not path.is_file()]


@pytest.mark.parametrize("method", METHODS)
def test_any_damage_is_refused_or_harmless(tmp_path: Path, method: int) -> None:
    whole = zips.zipped({"start.sh": "#!/bin/sh\n" * 9, "ä/x": os.urandom(99)}, method=method)
    archive, target, chance = tmp_path / "a.zip", tmp_path / "app", random.Random(method)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            data[chance.randrange(len(data))] = chance.choice((0, 1, 0x80, 0xff))
        archive.write_bytes(data)
        try:
            unpack(archive, target)
        except (Refused, OSError):
            assert "app.new" not in everything(tmp_path)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_it_takes_no_more_than_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zips.zipped({"start.sh": "", "zeros": bytes(2 << 20)}))
    free = artifacts.ROOM_BYTES + (1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Disk(1 << 40, 0, free))
    with pytest.raises(OSError, match="2097152 bytes") as caught:
        unpack(archive, tmp_path / "app")
    assert caught.value.errno == errno.ENOSPC
    assert everything(tmp_path) == {"a.zip"}


async def test_what_the_disk_lost_is_fetched_anew(tmp_path: Path) -> None:
    """The name says the hash, and a loss of power leaves the name with other bytes."""
    with Controller() as controller:
        url, sha256 = controller.app("a.zip", {"start.sh": "true"})
        kept = Artifacts(tmp_path, Http(controller.url), 1 << 30)
        await kept.unpacked(Artifact(url, sha256), tmp_path / "app")
        await kept.unpacked(Artifact(url, sha256), tmp_path / "app")
        assert len(controller.ranges) == 1
        file = tmp_path / "cache" / f"{sha256}.zip"
        file.write_bytes(bytes(file.stat().st_size))
        await kept.unpacked(Artifact(url, sha256), tmp_path / "app")
        assert len(controller.ranges) == 2
        assert (tmp_path / "app" / "start.sh").read_text() == "true"


async def test_the_same_from_two_places_at_once_is_fetched_once(tmp_path: Path) -> None:
    """Its file goes by the hash, whatever its address."""
    with Controller() as controller:
        url, sha256 = controller.app("a.zip", {"big": os.urandom(4 << 20)})
        controller.artifacts["/mirror/a.zip"] = controller.artifacts[url]
        kept = Artifacts(tmp_path, Http(controller.url), 1 << 30)
        async with trio.open_nursery() as nursery:
            for name, place in (("one", url), ("two", "/mirror/a.zip")):
                nursery.start_soon(kept.unpacked, Artifact(place, sha256), tmp_path / name)
        assert len(controller.ranges) == 1
    assert (tmp_path / "one" / "big").read_bytes() == (tmp_path / "two" / "big").read_bytes()


async def test_a_length_that_is_not_told_fills_no_disk(tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "LOOK_BYTES", 1 << 20)
    with Controller() as controller:
        controller.artifacts["/a.zip"] = zipped({"big": os.urandom(4 << 20)})
        controller.untold = True
        looks = 0

        def usage(_path: object) -> Disk:
            nonlocal looks
            looks += 1
            free = 1 << 40 if looks < 3 else artifacts.ROOM_BYTES - 1
            return Disk(1 << 41, 0, free)

        monkeypatch.setattr(shutil, "disk_usage", usage)
        kept = Artifacts(tmp_path, Http(controller.url), 1 << 30)
        with pytest.raises(NotFetched, match="disk is full"):
            await kept.unpacked(Artifact(controller.url + "/a.zip"), tmp_path / "app")
    assert everything(tmp_path) == {"cache"}


async def test_many_that_forget_what_is_old_at_once(tmp_path: Path) -> None:
    kept = Artifacts(tmp_path, Http("http://127.0.0.1:1"), 0)
    for turn in range(10):
        (tmp_path / "cache").mkdir(exist_ok=True)
        for number in range(200):
            (tmp_path / "cache" / f"{turn}-{number}.zip").touch()
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(trio.to_thread.run_sync, kept.prune)
