"""Apps over real sockets: uploads of every kind, and downloads in parts."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import time
from pathlib import Path

import httpx
import pytest

from tests import zips
from tests.api.live import WAIT_S, Api, refused, serving
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def upload(api: Api, content: bytes, field: str = "file") -> httpx.Response:
    return api.http.post("/v1/apps/upload", files={field: ("a.zip", io.BytesIO(content))})


def files(api: Api) -> set[str]:
    return {path.name for path in (api.daemon.data_dir / "artifacts").iterdir()}


def test_up_and_down(api: Api) -> None:
    content = zips.app("up", "1.0", services="service=up:http:8080\n", blob=os.urandom(300_000))
    before = files(api)
    answer = upload(api, content)
    assert answer.status_code == 200, answer.text
    made = answer.json()
    assert set(made) == {"artifactId", "name", "version", "url", "sha256", "sizeBytes",
                         "createdAt", "type", "ports"}
    assert (made["name"], made["version"], made["type"]) == ("up", "1.0", "zip")
    assert made["ports"] == [{"service": "up", "protocol": "http", "port": 8080}]
    assert made["sha256"] == hashlib.sha256(content).hexdigest()
    assert made["sizeBytes"] == len(content)
    assert len(files(api) - before) == 1
    refused(upload(api, zips.app("up", "1.0")), 409, "exists", "version", "reason")
    assert len(files(api) - before) == 1
    url = made["url"]
    assert url.startswith("/artifacts/")
    whole = api.ask("GET", url)
    assert whole.content == content
    assert whole.headers["content-length"] == str(len(content))
    tag = whole.headers["etag"]
    assert api.ask("GET", url, headers={"if-none-match": tag}).status_code == 304
    head = api.ask("HEAD", url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(content)))
    half = len(content) // 2
    for asked, start, end in (
            (f"bytes={half}-", half, len(content)), ("bytes=0-0", 0, 1), ("bytes=5-9", 5, 10),
            ("bytes=-7", len(content) - 7, len(content)),
            (f"bytes=3-{10 ** 12}", 3, len(content))):
        part = api.ask("GET", url, headers={"range": asked, "if-range": tag})
        assert part.status_code == 206, asked
        assert part.content == content[start:end]
        assert part.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
    for asked in ("bytes=9-5", "bytes=0-1,3-4", "lines=1-2", "bytes=-"):
        assert api.ask("GET", url, headers={"range": asked}).status_code == 200, asked
    changed = api.ask("GET", url, headers={"range": "bytes=0-0", "if-range": '"other"'})
    assert changed.status_code == 200
    beyond = api.ask("GET", url, headers={"range": f"bytes={len(content)}-"})
    refused(beyond, 416, "invalid", "Range")
    assert beyond.headers["content-range"] == f"bytes */{len(content)}"
    for name in ("x", "..%2Fplum.db", "%2e%2e%2fplum.db", "up.zip%00"):
        assert api.ask("GET", f"/artifacts/{name}").status_code == 404
    assert api.get(f"/v1/apps/{made['artifactId']}") == made
    assert api.items("/v1/apps?name=up") == [made]
    api.gone(f"/v1/apps/{made['artifactId']}")
    assert files(api) == before
    refused(api.ask("GET", url), 404, "not_found")
    refused(api.ask("DELETE", f"/v1/apps/{made['artifactId']}"), 404, "not_found")


def test_a_bare_body_and_pages(api: Api) -> None:
    for index in range(5):
        answer = api.http.post("/v1/apps/upload", content=zips.app("page", f"{index}"),
                               headers={"content-type": "application/zip"})
        assert answer.status_code == 200, answer.text
    found = list(api.walk("/v1/apps?name=page&limit=2"))
    assert [app["version"] for app in found] == ["4", "3", "2", "1", "0"]


def test_hostile_uploads_leave_nothing(api: Api) -> None:
    before, count = files(api), len(api.items("/v1/apps"))
    for what, content in zips.hostile().items():
        answer = upload(api, content)
        assert answer.status_code == 422, what
        refused(answer, 422, "invalid", "file", "reason")
    refused(upload(api, zips.app("other"), "wrong"), 422, "invalid", "file")
    answer = api.http.post("/v1/apps/upload", content=b"x", headers={
        "content-type": "multipart/form-data"})
    refused(answer, 400, "malformed", "Content-Type")
    answer = api.http.post("/v1/apps/upload", content=b"--b\r\n\r\nx", headers={
        "content-type": "multipart/form-data; boundary=b"})
    refused(answer, 400, "malformed")
    assert files(api) == before
    assert len(api.items("/v1/apps")) == count


def wait_for_files(api: Api, wanted: int) -> None:
    """Until the folder has so many files."""
    deadline = time.monotonic() + WAIT_S
    while len(files(api)) != wanted:
        assert time.monotonic() < deadline, files(api)
        time.sleep(0.02)        # the daemon's own time, which nothing here is told of


def test_a_client_that_leaves(api: Api) -> None:
    before = len(files(api))
    with socket.create_connection(("127.0.0.1", api.daemon.port), timeout=WAIT_S) as line:
        line.sendall(b"POST /v1/apps/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                     b"application/zip\r\nContent-Length: 5000000\r\n\r\n" + bytes(1_000_000))
        wait_for_files(api, before + 1)
    wait_for_files(api, before)


def test_a_large_upload_keeps_memory_flat(tmp_path: Path) -> None:
    """80 MB in, and the daemon has not grown by half of it."""
    content = zips.zipped({"start.sh": "", "meta.ini": zips.META, "blob": os.urandom(80 << 20)},
                          method=0)
    with Running(tmp_path / "data", "--artifact-bytes-max", str(90 << 20)) as daemon, \
            Api(daemon) as api:
        upload(api, zips.app("warm"))
        before = peak_kib(daemon.pid)
        answer = upload(api, content)
        assert answer.status_code == 200, answer.text
        assert peak_kib(daemon.pid) - before < 40 << 10
        assert hashlib.sha256(api.ask("GET", answer.json()["url"]).content).hexdigest() == (
            answer.json()["sha256"])
        assert peak_kib(daemon.pid) - before < 40 << 10
        assert upload(api, bytes(93 << 20)).status_code == 413
        # what a kill leaves behind is swept
        (daemon.data_dir / "artifacts" / "000.part").write_bytes(b"x")
        daemon.kill()
        daemon.start()
        assert len(files(api)) == 2


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("VmHWM")))
