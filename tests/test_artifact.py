"""What is an app and what is refused: every kind of hostile zip, and any bytes at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plumd.artifact import METHODS, inspect, parse_meta
from plumd.errors import Invalid
from plumd.store.apps import PortDecl
from tests import zips

HOSTILE = zips.hostile()


def test_an_app(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        path.write_bytes(zips.zipped({
            "start.sh": "#!/bin/sh\n", "META": "", "lib/": "", "lib/ä.txt": "x",
            "meta.ini": "\ufeff# c\n; c\n[x]\nName = radar 2\nVERSION: 1.0-b\nother=1\n"
                        "service=radar:http:8080\nService = ctl : tcp : 9\n"}, method=method))
        meta = inspect(path)
        assert (meta.name, meta.version) == ("radar 2", "1.0-b")
        assert meta.ports == (PortDecl("radar", "http", 8080), PortDecl("ctl", "tcp", 9))


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(HOSTILE[what])
    with pytest.raises(Invalid) as caught:
        inspect(path)
    assert caught.value.field == "file"
    assert caught.value.detail.isprintable()


def test_every_cut_of_a_zip_is_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.zip", zips.app()
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        with pytest.raises(Invalid):
            inspect(path)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_any_damage_is_refused_or_harmless(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    whole = zips.zipped({"start.sh": "#!/bin/sh\n" * 9,
                         "meta.ini": zips.META + "service=a:http:1\n"}, method=method)

    @given(st.integers(0, len(whole) - 1), st.integers(0, 255))
    def damage(at: int, value: int) -> None:
        path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1:])
        try:
            meta = inspect(path)
        except Invalid:
            return
        assert meta.name

    damage()


@given(st.text())
def test_any_meta(text: str) -> None:
    try:
        meta = parse_meta(text)
    except Invalid:
        return
    assert meta.name
    assert meta.version
