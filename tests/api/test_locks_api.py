"""Locks over the API, the SDK and the command line, through kill -9 too."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import trio

from plumd.sdk import KV, AsyncKV, Client, LockLost, ProblemError
from tests.api.live import Api, refused, serving, whole
from tests.daemon.plant import wait_for
from tests.daemon.running import Running

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


def acquire(api: Api, name: str, owner: str, ttl: float = 30, wait: int = 0) -> dict[str, object]:
    return whole(api.ask("POST", f"/v1/locks/plant/{name}?action=acquire",
                         {"owner": owner, "ttlSec": ttl},
                         headers={"Prefer": f"wait={wait}"} if wait else {}), 200)


def test_acquire_renew_release(api: Api) -> None:
    lock = acquire(api, "line/1", "a", 20)
    assert (lock["namespace"], lock["name"], lock["owner"], lock["ttlSec"]) == (
        "plant", "line/1", "a", 20)
    assert api.get("/v1/locks/plant/line/1")["token"] == lock["token"]
    assert [one["name"] for one in api.items("/v1/locks?namespace=plant")] == ["line/1"]
    assert api.items("/v1/locks?namespace=other") == []
    held = refused(api.ask("POST", "/v1/locks/plant/line/1?action=acquire", {"owner": "b"}),
                   409, "lease_held", None, "owner", "reason")
    assert held["owner"] == "a"
    renewed = whole(api.ask("POST", "/v1/locks/plant/line/1?action=renew",
                            {"token": lock["token"], "ttlSec": 40}), 200)
    assert renewed["ttlSec"] == 40
    assert api.ask("POST", "/v1/locks/plant/line/1?action=release",
                   {"token": lock["token"]}).status_code == 204
    refused(api.ask("POST", "/v1/locks/plant/line/1?action=release", {"token": lock["token"]}),
            409, "lease_lost", "token")
    refused(api.ask("GET", "/v1/locks/plant/line/1"), 404, "not_found")


@pytest.mark.parametrize(("action", "body", "field"), [
    ("acquire", {}, "owner"), ("acquire", {"owner": ""}, "owner"),
    ("acquire", {"owner": "a", "ttlSec": 0}, "ttlSec"), ("renew", {}, "token"),
    ("release", {}, "token"), ("release", {"token": -1}, "token"), ("", {}, "action"),
    ("steal", {}, "action"), ("acquire", {"owner": "a", "more": 1}, "more"),
])
def test_what_is_wrong_is_named(api: Api, action: str, body: object, field: str) -> None:
    refused(api.ask("POST", f"/v1/locks/plant/x?action={action}", body), 422, "invalid", field)


def test_who_waits_gets_it_at_the_release(api: Api) -> None:
    token = acquire(api, "wait", "a")["token"]
    got: list[dict[str, object]] = []

    def want() -> None:
        with Api(api.daemon) as other:
            got.append(acquire(other, "wait", "b", wait=30))

    thread = threading.Thread(target=want)
    thread.start()
    wait_for(lambda: api.get("/v1/locks/plant/wait")["waiting"] == 1, "it stands in line")
    api.ask("POST", "/v1/locks/plant/wait?action=release", {"token": token})
    thread.join()
    assert got[0]["owner"] == "b"
    assert int(str(got[0]["token"])) > int(str(token))


def test_a_write_stands_under_its_lock_or_falls(api: Api) -> None:
    token = acquire(api, "guard", "a")["token"]
    under = f"lock=guard&token={token}"
    whole(api.ask("PUT", f"/v1/kv/plant/k?{under}", {"value": "1"}), 200)
    whole(api.ask("POST", "/v1/kv/plant/batch", {
        "items": [{"key": "m", "value": "1"}], "lock": "guard", "token": token}), 200)
    api.gone("/v1/locks/plant/guard")
    newer = acquire(api, "guard", "b")["token"]
    for method, path, body in (
            ("PUT", f"/v1/kv/plant/k?{under}", {"value": "2"}),
            ("DELETE", f"/v1/kv/plant/k?{under}", None),
            ("DELETE", f"/v1/kv/plant?{under}", None),
            ("POST", "/v1/kv/plant/batch", {"items": [{"key": "k", "value": "2"}],
                                            "lock": "guard", "token": token})):
        refused(api.ask(method, path, body), 409, "lease_lost", "token")
    assert api.get("/v1/kv/plant/k")["value"] == "1"
    whole(api.ask("PUT", f"/v1/kv/plant/k?lock=guard&token={newer}", {"value": "3"}), 200)
    refused(api.ask("PUT", "/v1/kv/plant/k?lock=guard", {"value": "4"}), 422, "invalid", "token")
    refused(api.ask("PUT", "/v1/kv/plant/k?token=3", {"value": "4"}), 422, "invalid", "lock")


def test_a_namespace_is_cleared(api: Api) -> None:
    whole(api.ask("POST", "/v1/kv/big/batch", {"items": [
        {"key": f"{'a' if n % 2 else 'b'}/{n}", "value": "x"} for n in range(1_000)]}), 200)
    assert whole(api.ask("DELETE", "/v1/kv/big?prefix=a/"), 200) == {"deleted": 500}
    assert whole(api.ask("DELETE", "/v1/kv/big"), 200) == {"deleted": 500}
    assert whole(api.ask("DELETE", "/v1/kv/big"), 200) == {"deleted": 0}
    namespaces = api.get("/v1/kv")["namespaces"]
    assert isinstance(namespaces, list)
    assert "big" not in namespaces


def test_tokens_grow_through_kill_9(tmp_path: Path) -> None:
    with Running(tmp_path / "data") as daemon:
        tokens: list[object] = []
        for turn in range(3):
            with Api(daemon) as api:
                lock = acquire(api, f"x{turn}", "a")
                tokens.append(lock["token"])
            daemon.kill()
            daemon.start()
            with Api(daemon) as api:
                assert api.get(f"/v1/locks/plant/x{turn}")["token"] == lock["token"]
                refused(api.ask("POST", f"/v1/locks/plant/x{turn}?action=acquire",
                                {"owner": "b"}), 409, "lease_held", None, "owner", "reason")
                whole(api.ask("POST", f"/v1/locks/plant/x{turn}?action=renew",
                              {"token": lock["token"]}), 200)
                api.gone(f"/v1/locks/plant/x{turn}")
                tokens.append(acquire(api, f"x{turn}", "b")["token"])
        assert tokens == sorted(tokens, key=lambda token: int(str(token)))
        assert len(set(tokens)) == len(tokens)


def expiry(api: Api, name: str) -> int:
    """Until when a lock holds, Unix ms."""
    at_ms = api.get(f"/v1/locks/plant/{name}")["expiresAt"]
    assert isinstance(at_ms, int)
    return at_ms


def test_the_sdk_keeps_a_lock_for_a_block(api: Api) -> None:
    with Client(api.daemon.url) as plum:
        kv = plum.kv("plant")
        with kv.lock("sdk", ttl_s=1.0) as first:
            kv.put("guarded", 1, lock=first)
            ends = expiry(api, "sdk")
            wait_for(lambda: expiry(api, "sdk") >= ends + 2_000, "it is renewed again and again")
            first.check()
            kv.cas("guarded", 2, 1, lock=first)
            with pytest.raises(ProblemError, match="lease_held"), kv.lock("sdk", wait_s=0):
                pass
        with KV("plant", api.daemon.url) as other, other.lock("sdk", wait_s=5) as second:
            assert second.token > first.token
            with pytest.raises(ProblemError, match="lease_lost"):
                kv.put("guarded", 3, lock=first)
            api.gone("/v1/locks/plant/sdk")
            with pytest.raises(ProblemError, match="lease_lost"):
                other.delete("guarded", lock=second)
        assert kv.get("guarded") == 2
        assert kv.clear("guarded") == 1


def test_the_async_sdk_cancels_a_block_whose_lock_is_lost(api: Api) -> None:
    async def main() -> list[str]:
        said: list[str] = []
        async with AsyncKV("plant", api.daemon.url) as kv:
            async with kv.lock("async", ttl_s=0.6) as lock:
                await kv.put("async", 1, lock=lock)
                await trio.sleep(1.5)
                lock.check()
                said.append("kept")
            with pytest.raises(KeyError):
                async with kv.lock("async", ttl_s=0.6):
                    raise KeyError

            async def robbed() -> None:
                async with kv.lock("async", ttl_s=0.6):
                    await trio.to_thread.run_sync(api.gone, "/v1/locks/plant/async")
                    await trio.sleep(30)

            with pytest.raises(LockLost):
                await robbed()
            said.append("lost")
        return said

    assert trio.run(main) == ["kept", "lost"]


def test_the_command_line(api: Api) -> None:
    plum = api.daemon.plum
    done = plum("lock", "run", "cli", "-n", "shell", "--", "sh", "-c",
                'echo "$PLUM_LOCK $PLUM_LOCK_NAMESPACE $PLUM_LOCK_TOKEN"; exit 7')
    name, namespace, token = done.stdout.split()
    assert (name, namespace, int(token) > 0, done.returncode) == ("cli", "shell", True, 7)
    got = plum("lock", "acquire", "cli", "-n", "shell", "--owner", "me", "--ttl", "60")
    assert got.returncode == 0
    assert int(got.stdout) > int(token)
    assert plum("kv", "lock", "acquire", "cli", "-n", "shell", "--owner", "you").returncode == 5
    assert plum("lock", "run", "cli", "-n", "shell", "--wait", "0", "--", "true").returncode == 5
    assert plum("lock", "list", "-n", "shell", "-o", "name").stdout.split() == ["cli"]
    assert plum("lock", "renew", "cli", got.stdout.strip(), "-n", "shell").returncode == 0
    assert plum("lock", "release", "cli", got.stdout.strip(), "-n", "shell").returncode == 0
    assert plum("lock", "release", "cli", got.stdout.strip(), "-n", "shell").returncode == 5
    assert plum("lock", "take-away", "cli", "-n", "shell").returncode == 3
    assert json.loads(plum("lock", "list", "-n", "shell", "-o", "json").stdout) == []


def test_a_command_whose_lock_is_taken_away_is_ended(api: Api) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(api.daemon.plum(
        "lock", "run", "doomed", "--ttl", "1", "--", "sleep", "60").returncode))
    thread.start()
    wait_for(lambda: api.ask("GET", "/v1/locks/default/doomed").status_code == 200, "it is held")
    api.gone("/v1/locks/default/doomed")
    thread.join()
    assert found == [5]
