"""The key-value store over real sockets: what old SDKs send, and what is new beside it."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.api.live import (
    Api,
    Json,
    listed,
    next_page,
    no_defects,
    raw_exchange,
    refused,
    serving,
    whole,
)
from tests.api.test_events_api import Reader
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)
MIB = 1 << 20


@pytest.fixture
def ns(request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own."""
    return f"ns {request.node.name[:60].replace('/', '_').encode().hex()[:80]}"


def at(ns: str, key: str) -> str:
    return f"/v1/kv/{quote(ns)}/{quote(key, safe='/')}"


def put(api: Api, ns: str, key: str, value: str, **more: object) -> Json:
    return api.done("PUT", at(ns, key), {"value": value, **more})


def test_an_old_sdk_to_the_byte(api: Api) -> None:
    """Keys un-encoded with slashes, text/plain, odd spellings, bytes behind the value."""
    body = b'{"Value":"21.5","TYPE":"double","ttl":null,"more":1}\0'
    sent = (b"PUT /v1/kv/old//plant/line 1/temp HTTP/1.1\r\n".replace(b" 1/", b"%201/")
            + b"Host: 127.0.0.1\r\nContent-Type: text/plain\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body)
    head, _, text = raw_exchange(api.daemon, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert b'\r\netag: "1"' in head
    entry = json.loads(text)
    updated = entry.pop("updatedAt")
    assert updated > 1_700_000_000_000
    assert entry == {"namespace": "old", "key": "/plant/line 1/temp", "value": "21.5",
                     "type": "double", "version": 1}
    assert whole(api.ask("GET", "/v1/kv/old//plant/line%201/temp"), 200)["value"] == "21.5"
    assert whole(api.ask("GET", "/v1/kv/old/%2Fplant%2Fline%201/temp"), 200)["value"] == "21.5"
    assert api.ask("GET", "/v1/kv/old/plant/line%201/temp").status_code == 404
    head_answer = api.ask("HEAD", "/v1/kv/old//plant/line%201/temp")
    assert (head_answer.status_code, head_answer.content) == (200, b"")
    assert head_answer.headers["etag"] == '"1"'
    answer = api.ask("DELETE", "/v1/kv/old//plant/line%201/temp")
    assert (answer.status_code, answer.content) == (204, b"")
    assert api.ask("DELETE", "/v1/kv/old//plant/line%201/temp").status_code == 204


def test_versions_grow_through_deletion(api: Api, ns: str) -> None:
    assert [put(api, ns, "k", str(n))["version"] for n in range(3)] == [1, 2, 3]
    api.gone(at(ns, "k"))
    refused(api.ask("GET", at(ns, "k")), 404, "not_found", "key")
    again = put(api, ns, "k", "back")["version"]
    assert isinstance(again, int)
    assert again > 3
    assert put(api, ns, "other", "x")["version"] == 1


def test_lists(api: Api, ns: str) -> None:
    for key in ("b/2", "a", "b/10", "b", "é", "中/文", "b0"):
        put(api, ns, key, key.upper())
    ordered = sorted(["b/2", "a", "b/10", "b", "é", "中/文", "b0"], key=str.encode)
    base = f"/v1/kv/{quote(ns)}"
    assert [one["key"] for one in api.items(base)] == ordered
    assert [one["value"] for one in api.items(base)] == [key.upper() for key in ordered]
    assert [one["key"] for one in api.items(base + "?prefix=b/")] == ["b/10", "b/2"]
    assert [one["key"] for one in api.items(base + "?prefix=b")] == ["b", "b/10", "b/2", "b0"]
    assert api.items(base + "?prefix=zz") == []
    assert api.get(base + "/keys") == {"keys": ordered, "namespace": ns}
    assert api.get(base + "/keys?prefix=b/")["keys"] == ["b/10", "b/2"]
    assert api.items("/v1/kv/nobody-wrote-here") == []
    namespaces = api.get("/v1/kv")["namespaces"]
    assert isinstance(namespaces, list)
    assert ns in namespaces
    assert namespaces == sorted(namespaces)
    assert [one["key"] for one in api.walk(base + "?limit=3")] == ordered
    assert [one["key"] for one in api.walk(base + "?limit=1&prefix=b")] == [
        "b", "b/10", "b/2", "b0"]


def test_a_key_that_is_named_like_a_list(api: Api, ns: str) -> None:
    put(api, ns, "keys", "1")
    assert whole(api.ask("GET", f"/v1/kv/{quote(ns)}/%6beys"), 200)["value"] == "1"
    assert api.get(f"/v1/kv/{quote(ns)}/keys")["keys"] == ["keys"]


def test_a_large_namespace_comes_whole(api: Api, ns: str) -> None:
    """More than one slice, with a value of the largest size among them."""
    values = {f"{index:02}": chr(97 + index) * (MIB - index) for index in range(10)}
    for key, value in values.items():
        put(api, ns, key, value)
    base = f"/v1/kv/{quote(ns)}"
    answer = api.ask("GET", base)
    assert answer.headers["content-type"] == "application/json"
    found: list[Json] = answer.json()
    assert {str(one["key"]): one["value"] for one in found} == values
    assert api.ask("HEAD", base).status_code == 200
    page = api.ask("GET", base + "?limit=1000")
    assert 1 <= len(page.json()) < 10, "a page is bounded by bytes too"
    assert next_page(page) is not None
    assert [one["key"] for one in api.walk(base + "?limit=1000")] == sorted(values)


def test_conditions(api: Api, ns: str) -> None:
    path = at(ns, "k")

    def ask(method: str, **headers: str) -> tuple[int, object]:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = api.ask(method, path, None if method == "DELETE" else {"value": "v"},
                         headers=names)
        return answer.status_code, None if answer.status_code == 204 else answer.json()

    missing = api.ask("PUT", path, {"value": "v"}, headers={"if-match": '"1"'})
    assert refused(missing, 412, "precondition_failed", "If-Match", "current")["current"] is None
    refused(api.ask("DELETE", path, headers={"if-match": "*"}), 412, "precondition_failed",
            "If-Match", "current")
    assert ask("PUT", if_none_match="*")[0] == 200
    there = api.ask("PUT", path, {"value": "w"}, headers={"if-none-match": "*"})
    current = refused(there, 412, "precondition_failed", "If-None-Match", "current")["current"]
    assert current == api.get(path)
    assert ask("PUT", if_match='"1"')[0] == 200
    assert ask("PUT", if_match='"1"')[0] == 412
    assert ask("PUT", if_match="2")[0] == 200
    assert ask("PUT", if_match="*")[0] == 200
    assert ask("DELETE", if_match='"3"')[0] == 412
    assert ask("DELETE", if_match='"4"') == (204, None)
    assert ask("PUT", if_match='"4"')[0] == 412
    assert ask("PUT", if_none_match="*")[0] == 200
    for headers, field in (({"if-match": "x"}, "If-Match"), ({"if-match": '"1", "2"'}, "If-Match"),
                           ({"if-none-match": '"1"'}, "If-None-Match"),
                           ({"if-match": "*", "if-none-match": "*"}, "If-None-Match")):
        refused(api.ask("PUT", path, {"value": "v"}, headers=headers), 422, "invalid", field)


def test_of_many_who_compare_and_set_one_wins(api: Api, ns: str) -> None:
    """Each adds one to a counter by compare-and-set; no addition is lost."""
    put(api, ns, "count", "0", type="int")

    def add(times: int) -> None:
        with Api(api.daemon) as mine:
            done = 0
            while done < times:
                entry = mine.get(at(ns, "count"))
                answer = mine.ask("PUT", at(ns, "count"), {
                    "value": str(int(str(entry["value"])) + 1), "type": "int"},
                    headers={"if-match": f'"{entry["version"]}"'})
                assert answer.status_code in (200, 412)
                done += answer.status_code == 200

    threads = [threading.Thread(target=add, args=(25,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (api.get(at(ns, "count"))["value"], api.get(at(ns, "count"))["version"]) == ("100", 101)


def test_batches(api: Api, ns: str) -> None:
    base = f"/v1/kv/{quote(ns)}"
    done = api.done("POST", base + "/batch", {"items": [
        {"key": "a", "value": "1", "type": "int"}, {"key": "b/c", "value": "x"},
        {"key": "gone", "delete": True}, {"key": "a", "value": "2", "type": "int"}]})
    assert done == {"items": [{"key": "a", "version": 1}, {"key": "b/c", "version": 1},
                              {"key": "gone", "version": 0}, {"key": "a", "version": 2}]}
    before = api.items(base)
    bad = api.ask("POST", base + "/batch", {"items": [
        {"key": "new", "value": "1"}, {"key": "a", "delete": True},
        {"key": "b/c", "value": "y", "ifVersion": 7}]})
    current = refused(bad, 412, "precondition_failed", "items[2].ifVersion", "current")["current"]
    assert current == before[1]
    assert api.items(base) == before
    api.done("POST", base + "/batch", {"items": [
        {"key": "a", "delete": True, "ifVersion": 2}, {"key": "n", "value": "", "ifVersion": 0}]})
    assert [one["key"] for one in api.items(base)] == ["b/c", "n"]
    assert api.done("POST", base + "/batch", {"items": []}) == {"items": []}


@pytest.mark.parametrize(("item", "field"), [
    ({"value": "1"}, "items[1].key"), ({"key": "", "value": "1"}, "items[1].key"),
    ({"key": "a\0", "value": "1"}, "items[1].key"), ({"key": "a"}, "items[1].value"),
    ({"key": "a", "value": 1}, "items[1].value"), ({"key": "é" * 257, "value": "1"},
                                                   "items[1].key"),
    ({"key": "a", "value": "x", "type": "int"}, "items[1].value"),
    ({"key": "a", "value": "x", "type": "text"}, "items[1].type"),
    ({"key": "a", "value": "x", "delete": True}, "items[1].value"),
    ({"key": "a", "value": "x", "ttlSec": 0}, "items[1].ttlSec"),
    ({"key": "a", "value": "x", "ifVersion": -1}, "items[1].ifVersion"),
])
def test_a_bad_item_spoils_its_batch(api: Api, ns: str, item: Json, field: str) -> None:
    answer = api.ask("POST", f"/v1/kv/{quote(ns)}/batch", {"items": [
        {"key": "good", "value": "1"}, item]})
    refused(answer, 422, "invalid", field)
    assert api.items(f"/v1/kv/{quote(ns)}") == []


def test_a_batch_has_its_bound(api: Api, ns: str) -> None:
    items = [{"key": str(n), "value": ""} for n in range(10_001)]
    refused(api.ask("POST", f"/v1/kv/{quote(ns)}/batch", {"items": items}), 422, "invalid", "items")
    done = api.done("POST", f"/v1/kv/{quote(ns)}/batch", {"items": items[:10_000]})
    assert len(listed(done["items"])) == 10_000
    assert len(api.items(f"/v1/kv/{quote(ns)}")) == 10_000


GOOD = [("int", "-9223372036854775808"), ("int", "+7"), ("int", "007"), ("double", "1e-3"),
        ("double", "-inf"), ("double", "nan"), ("double", "-nan(0x1)"), ("double", "0x1.8p+3"),
        ("double", ".5"), ("double", "5."), ("bool", "true"), ("bool", "0"), ("bool", "False"),
        ("bytes", ""), ("bytes", "AP8="), ("string", ""), ("string", "\0\x1f\u2028中")]
BAD = [("int", "9223372036854775808"), ("int", "1.0"), ("int", ""), ("int", " 1"), ("int", "٣"),
       ("double", "1e999"), ("double", "1,5"), ("double", ""), ("double", "1_0"), ("bool", "yes"),
       ("bool", ""), ("bytes", "AP8"), ("bytes", "A\n=="), ("bytes", "é")]


@pytest.mark.parametrize(("kind", "value"), GOOD)
def test_values_are_kept_as_they_were_sent(api: Api, ns: str, kind: str, value: str) -> None:
    put(api, ns, "k", value, type=kind)
    found = api.get(at(ns, "k"))
    assert (found["type"], found["value"]) == (kind, value)
    assert api.items(f"/v1/kv/{quote(ns)}") == [found]


@pytest.mark.parametrize(("kind", "value"), BAD)
def test_values_that_are_none_of_their_type(api: Api, ns: str, kind: str, value: str) -> None:
    refused(api.ask("PUT", at(ns, "k"), {"value": value, "type": kind}), 422, "invalid", "value")
    assert api.items(f"/v1/kv/{quote(ns)}") == []


def test_sizes(api: Api, ns: str) -> None:
    for value in ("x" * MIB, "é" * (MIB // 2), "\0" * MIB):
        put(api, ns, "k", value)
        assert api.get(at(ns, "k"))["value"] == value
    for value in ("x" * (MIB + 1), "é" * (MIB // 2) + "x"):
        refused(api.ask("PUT", at(ns, "k"), {"value": value}), 413, "too_large", "value")
    refused(api.ask("PUT", at(ns, "k"), {"value": "\0" * (MIB + 20_000)}), 413, "too_large")
    longest = "é" * 256
    put(api, ns, longest, "")
    assert api.get(at(ns, longest))["key"] == longest
    for key in (longest + "x", "a%00b"):
        path = f"/v1/kv/{quote(ns)}/{key if '%' in key else quote(key)}"
        refused(api.ask("PUT", path, {"value": ""}), 422, "invalid", "key")
        refused(api.ask("GET", path), 422, "invalid", "key")
        refused(api.ask("DELETE", path), 422, "invalid", "key")


@pytest.mark.parametrize("bad", ["x" * 101, "a%00", "a%0a", "a%2Fb", "%7f", "%e2%80%a8"])
def test_namespaces_that_are_none(api: Api, bad: str) -> None:
    refused(api.ask("PUT", f"/v1/kv/{bad}/k", {"value": ""}), 422, "invalid", "namespace")
    for path in (f"/v1/kv/{bad}", f"/v1/kv/{bad}/keys", f"/v1/kv/{bad}/k",
                 f"/v1/stream?namespace={bad}"):
        refused(api.ask("GET", path), 422, "invalid", "namespace")
    refused(api.ask("POST", f"/v1/kv/{bad}/batch", {"items": []}), 422, "invalid", "namespace")


def test_bytes_that_are_no_utf8_in_a_path(api: Api, ns: str) -> None:
    refused(api.ask("PUT", f"/v1/kv/{quote(ns)}/a%ffb", {"value": ""}), 400, "malformed")


def test_a_key_expires_and_is_told(api: Api, ns: str) -> None:
    with Reader(api.daemon, f"/v1/stream?namespace={quote(ns)}") as watch:
        assert watch.frame() == b"event: ping\ndata: init"
        put(api, ns, "stays", "1", ttlSec=3600)
        entry = put(api, ns, "short", "1", ttlSec=0.3)
        assert isinstance(entry["expiresAt"], int)
        assert entry["expiresAt"] - int(str(entry["updatedAt"])) == 300
        assert change(watch)["key"] == "stays"
        assert change(watch)["expiresAt"] == entry["expiresAt"]
        end = change(watch)
        assert end == {"namespace": ns, "key": "short", "value": "", "type": "string",
                       "version": 2, "deleted": True}
    refused(api.ask("GET", at(ns, "short")), 404, "not_found", "key")
    assert [one["key"] for one in api.items(f"/v1/kv/{quote(ns)}")] == ["stays"]
    assert "expiresAt" not in put(api, ns, "stays", "2"), "a plain write stays for ever"


def change(watch: Reader) -> Json:
    """The next change; comments are passed over."""
    while True:
        lines = watch.frame().split(b"\n")
        if lines[0].startswith(b":"):
            continue
        assert lines[0] == b"event: kv"
        assert len(lines) == 2
        found: Json = json.loads(lines[1].removeprefix(b"data: "))
        updated = found.pop("updatedAt", None)
        assert isinstance(updated, int) != found.get("deleted", False)
        return found


def test_a_watch(api: Api, ns: str) -> None:
    put(api, ns, "before", "1")
    with Reader(api.daemon, f"/v1/stream?namespace={quote(ns)}") as watch, \
            Reader(api.daemon, f"/v1/stream?namespace={quote(ns)}&prefix=b/") as part:
        assert watch.frame() == part.frame() == b"event: ping\ndata: init"
        put(api, "elsewhere", "a", "1")
        put(api, ns, "a", "ä", type="string")
        assert change(watch) == {"namespace": ns, "key": "a", "value": "ä", "type": "string",
                                 "version": 1}
        put(api, ns, "b/1", "AA==", type="bytes")
        second = {"namespace": ns, "key": "b/1", "value": "AA==", "type": "bytes", "version": 1}
        assert change(watch) == second
        api.gone(at(ns, "a"))
        assert change(watch) == {"namespace": ns, "key": "a", "value": "", "type": "string",
                                 "version": 2, "deleted": True}
        assert change(part) == second


def test_who_falls_behind_gets_the_newest(api: Api, ns: str) -> None:
    """A watcher that does not read for a while; then it is told the last value of each key."""
    with Reader(api.daemon, f"/v1/stream?namespace={quote(ns)}") as watch:
        watch.frame()
        for number in range(30):
            api.done("POST", f"/v1/kv/{quote(ns)}/batch", {"items": [
                {"key": key, "value": str(number) + key * 300_000} for key in "abcdefghij"]})
        put(api, ns, "end", "1")
        seen: list[Json] = []
        while not seen or seen[-1]["key"] != "end":
            seen.append(change(watch))
    newest = {one["key"]: one["version"] for one in seen}
    assert {newest[key] for key in "abcdefghij"} == {30}
    assert len(seen) < 301, "some were left out"
    for key in "abcdefghij":
        versions = [int(str(one["version"])) for one in seen if one["key"] == key]
        assert versions == sorted(set(versions))


def test_events_name_keys_and_not_values(api: Api, ns: str) -> None:
    start = int(str(api.get("/v1/status")["nextEvent"]))
    put(api, ns, "k", "secret")
    api.gone(at(ns, "k"))
    with Reader(api.daemon, "/v1/events?topics=kv", f"Last-Event-ID: {start - 1}") as reader:
        first, second = reader.event(), reader.event()
    assert first[1] == second[1] == "kv"
    assert (first[2]["namespace"], first[2]["key"], first[2]["version"],
            first[2]["deleted"]) == (ns, "k", 1, False)
    assert (second[2]["version"], second[2]["deleted"]) == (2, True)
    assert "secret" not in json.dumps(first[2])


def test_idempotency_keys(api: Api, ns: str) -> None:
    for _ in range(2):
        answer = api.ask("PUT", at(ns, "k"), {"value": "1"},
                         headers={"idempotency-key": quote(ns) + "1", "if-none-match": "*"})
        assert whole(answer, 200)["version"] == 1
    assert answer.headers["idempotency-replayed"] == "true"
    other = api.ask("PUT", at(ns, "k"), {"value": "2"},
                    headers={"idempotency-key": quote(ns) + "1"})
    refused(other, 422, "idempotency_key_reused", "Idempotency-Key")
    for _ in range(2):
        answer = api.ask("POST", f"/v1/kv/{quote(ns)}/batch", {"items": [
            {"key": "k", "value": "3", "ifVersion": 1}]},
            headers={"idempotency-key": quote(ns) + "2"})
        assert whole(answer, 200) == {"items": [{"key": "k", "version": 2}]}


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """kill -9 right behind the answers: values, versions, marks of deletion and expiry hold."""
    with Running(tmp_path / "data") as daemon, Api(daemon) as api:
        for number in range(50):
            put(api, "n", f"k{number}", str(number))
        api.gone(at("n", "k0"))
        put(api, "n", "short", "x", ttlSec=0.01)
        put(api, "n", "long", "x", ttlSec=3600)
        daemon.kill()
        daemon.start()
        with no_defects(daemon), Api(daemon) as again:
            found = {one["key"]: one["value"] for one in again.items("/v1/kv/n")}
            found.pop("short", None)        # the clock decides
            assert found == {**{f"k{n}": str(n) for n in range(1, 50)}, "long": "x"}
            assert put(again, "n", "k0", "back")["version"] == 3
            assert put(again, "n", "k1", "1")["version"] == 2


KEYS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1,
               max_size=40)


def test_any_key_and_any_value_come_back(api: Api) -> None:
    @given(key=KEYS, value=st.text(st.characters(exclude_categories=["Cs"])))
    @settings(max_examples=60, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    def ask(key: str, value: str) -> None:
        # A client library may take "." and ".." out of a path; encoded they are safe from it.
        path = "/v1/kv/any/" + "".join(f"%{byte:02x}" for byte in key.encode())
        assert whole(api.ask("PUT", path, {"value": value}), 200)["key"] == key
        assert api.get(path)["value"] == value
        assert any(one["key"] == key for one in api.items(f"/v1/kv/any?prefix={quote(key)}"))
        api.gone(path)

    ask()


def test_paging_agrees_with_the_whole(api: Api) -> None:
    @given(keys=st.sets(KEYS, max_size=12), prefix=st.text(max_size=1), limit=st.integers(1, 5))
    @settings(max_examples=25, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))
    def ask(keys: set[str], prefix: str, limit: int) -> None:
        base = "/v1/kv/paged"
        api.done("POST", base + "/batch", {"items": [
            {"key": one["key"], "delete": True} for one in api.items(base)]})
        api.done("POST", base + "/batch", {"items": [
            {"key": key, "value": ""} for key in keys]})
        query = f"?limit={limit}&prefix={quote(prefix)}"
        fitting = sorted((key for key in keys if key.startswith(prefix)), key=str.encode)
        assert [one["key"] for one in api.walk(base + query)] == fitting

    ask()
