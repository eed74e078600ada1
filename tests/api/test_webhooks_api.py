"""Webhooks that go out, from the real program to a receiver of the test's own."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from plumd.signing import wrong
from tests.api.live import Api, Json, refused, serving
from tests.daemon.plant import wait_for
from tests.daemon.running import Running, free_port

pytestmark = pytest.mark.daemon
api = pytest.fixture(scope="module", name="api")(serving)


class Receiver:
    """Listens on a port, answers as it is told, and keeps what came."""

    def __init__(self, port: int = 0) -> None:
        self.got: list[tuple[Mapping[str, str], bytes]] = []
        self.answers: list[tuple[int, dict[str, str]]] = []
        """What is answered first; then 204."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status, headers = outer.answers.pop(0) if outer.answers else (204, {})
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", "0")
                self.end_headers()
                outer.got.append(({k.lower(): v for k, v in self.headers.items()}, body))

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # theirs
                del format, args

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def events(self) -> list[Json]:
        return [json.loads(body) for _, body in list(self.got)]


@pytest.fixture(name="far")
def far_receiver() -> Iterator[Receiver]:
    """A receiver."""
    receiver = Receiver()
    yield receiver
    receiver.close()


def webhook(api: Api, name: str, port: int, **fields: object) -> Json:
    return api.made("/v1/webhooks", {"name": name, "url": f"http://127.0.0.1:{port}/in",
                                     "topics": ["kv"], **fields})


def put(api: Api, key: str) -> None:
    api.done("PUT", f"/v1/kv/hooks/{key}", {"value": "1"})


def deliveries(api: Api, made: Json, query: str = "") -> list[Json]:
    return api.items(f"/v1/webhooks/{made['webhookId']}/deliveries{query}")


def states(api: Api, made: Json) -> list[object]:
    return [one["state"] for one in deliveries(api, made)]


def are_over(api: Api, made: Json, count: int) -> bool:
    found = states(api, made)
    return len(found) == count and "pending" not in found


def given_up(api: Api, made: Json) -> bool:
    return states(api, made) == ["failed"]


def test_what_is_told_is_signed_and_filtered(api: Api, far: Receiver) -> None:
    made = webhook(api, "out.signed", far.port, filter='event.data.key != "no"',
                   headers={"X-Site": "north"})
    for key in ("a", "no", "b"):
        put(api, key)
    wait_for(lambda: states(api, made) == ["delivered", "delivered"], "both are delivered")
    assert sorted(str(one["data"]["key"]) for one in far.events()) == ["a", "b"]  # type: ignore[index]
    for headers, body in far.got:
        assert wrong("standard", str(made["secret"]), headers, body,
                     int(headers["webhook-timestamp"])) == ""
        event = json.loads(body)
        assert headers["webhook-id"] == f"{made['webhookId']}.{event['seq']}"
        assert (headers["x-site"], event["topic"], event["event"]) == ("north", "kv", "kv")
    shown = api.get(f"/v1/webhooks/{made['webhookId']}")
    assert (shown["secret"], shown["headers"], shown["waiting"]) == (None, ["X-Site"], 0)
    [last, first] = deliveries(api, made)
    assert (first["attempts"], first["status"], first["event"]) == (1, 204, far.events()[0])
    assert int(str(last["seq"])) > int(str(first["seq"]))

    again = api.done("POST", f"/v1/webhooks/{made['webhookId']}/deliveries/{first['seq']}"
                     "?action=retry")
    assert again["seq"] == first["seq"]
    wait_for(lambda: len(far.got) == 3, "it came once more")
    assert far.got[2][0]["webhook-id"] == far.got[0][0]["webhook-id"]
    for seq in ("0", "x", "999999"):
        refused(api.ask("POST", f"/v1/webhooks/{made['webhookId']}/deliveries/{seq}?action=retry"),
                404, "not_found")
    api.gone(f"/v1/webhooks/{made['webhookId']}")


def test_it_is_tried_again_and_given_up(api: Api, far: Receiver) -> None:
    far.answers = [(500, {}), (302, {"location": "http://127.0.0.1:1/"}), (410, {})]
    retried = webhook(api, "out.retried", far.port, maxAttempts=2)
    put(api, "x")
    wait_for(lambda: states(api, retried) == ["failed"], "it is given up")
    [one] = deliveries(api, retried)
    assert (one["attempts"], one["status"], one["nextAt"]) == (2, 302, None)
    alerts = api.items("/v1/events/history?topics=alerts&limit=5")
    assert alerts[0]["data"]["id"] == "webhook_failed"  # type: ignore[index]
    assert alerts[0]["name"] == "out.retried"
    assert one["event"] == far.events()[0] == far.events()[1]
    told = len(api.items("/v1/events/history?topics=alerts&limit=100"))
    far.answers = [(410, {}), (204, {}), (410, {}), (410, {})]
    for count, ended in enumerate(("failed", "delivered", "failed"), 2):
        put(api, "x")
        wait_for(partial(are_over, api, retried, count), "it is over")
        assert states(api, retried)[0] == ended
    alerts = api.items("/v1/events/history?topics=alerts&limit=100")
    assert len(alerts) == told + 1, "the first one in a row is told"
    api.gone(f"/v1/webhooks/{retried['webhookId']}")

    gone = webhook(api, "out.gone", far.port)
    put(api, "y")
    wait_for(lambda: states(api, gone) == ["failed"], "410 ends it at once")
    assert deliveries(api, gone, "?state=failed")[0]["attempts"] == 1
    api.gone(f"/v1/webhooks/{gone['webhookId']}")


def test_a_dead_receiver_delays_nobody(api: Api, far: Receiver) -> None:
    dead = webhook(api, "out.dead", free_port())
    alive = webhook(api, "out.alive", far.port)
    for key in range(20):
        put(api, str(key))
    wait_for(lambda: states(api, alive) == ["delivered"] * 20, "the other has heard")
    assert "pending" in states(api, dead)
    waiting = deliveries(api, dead, "?state=pending")
    assert waiting[0]["status"] is None
    refused(api.ask("POST", f"/v1/webhooks/{dead['webhookId']}/deliveries/{waiting[0]['seq']}"
                    "?action=retry"), 409, "wrong_state")
    for made in (dead, alive):
        api.gone(f"/v1/webhooks/{made['webhookId']}")


def test_never_to_plumd_itself_or_forbidden_places(api: Api) -> None:
    for name, url in (("own", api.daemon.url + "/v1/tasks"), ("local", "http://169.254.169.254/")):
        made = webhook(api, f"out.{name}", 1, url=url, maxAttempts=1)
        put(api, "z")
        wait_for(partial(given_up, api, made), "it is refused")
        assert "is not called" in str(deliveries(api, made)[0]["detail"])
        api.gone(f"/v1/webhooks/{made['webhookId']}")


def test_paused_ones_hear_nothing(api: Api, far: Receiver) -> None:
    made = webhook(api, "out.paused", far.port, enabled=False)
    path = f"/v1/webhooks/{made['webhookId']}"
    put(api, "before")
    api.done("POST", f"{path}?action=resume")
    put(api, "after")
    wait_for(lambda: states(api, made) == ["delivered"], "the second came")
    assert far.events()[0]["data"]["key"] == "after"  # type: ignore[index]
    api.done("POST", f"{path}?action=pause")
    put(api, "later")
    changed = api.done("PUT", path, {"name": "out.paused", "url": "http://127.0.0.1:1/",
                                     "topics": ["tasks"], "secret": "s" * 20})
    assert (changed["version"], changed["secret"], changed["enabled"]) == (4, "s" * 20, True)
    assert len(deliveries(api, made)) == 1
    api.gone(path)


@pytest.mark.parametrize(("fields", "field"), [
    ({"url": "ftp://x/"}, "url"), ({"url": "http://u:p@x/"}, "url"), ({"url": "http://"}, "url"),
    ({"topics": []}, "topics"), ({"topics": ["nothing"]}, "topics[0]"),
    ({"topics": ["triggers"]}, "topics[0]"), ({"filter": "1 +"}, "filter"),
    ({"filter": "steps.a.result"}, "filter"), ({"headers": {"webhook-id": "x"}},
                                               "headers.webhook-id"),
    ({"headers": {"X-A": "1", "x-a": "2"}}, "headers"),
    ({"headers": {"a": "b\nc"}}, "headers[...]"),
    ({"timeoutSec": 0}, "timeoutSec"), ({"maxAttempts": 0}, "maxAttempts"),
    ({"maxWaiting": 9}, "maxWaiting"), ({"maxWaiting": 100_001}, "maxWaiting"),
    ({"secret": "short"}, "secret")])
def test_what_cannot_be_is_refused(api: Api, fields: Json, field: str) -> None:
    body = {"name": "bad", "url": "http://127.0.0.1:1/", "topics": ["kv"], **fields}
    refused(api.ask("POST", "/v1/webhooks", body), 422, "invalid", field)
    assert api.items("/v1/webhooks?name=bad") == []


def test_what_waits_is_bounded(api: Api) -> None:
    made = webhook(api, "out.bounded", free_port(), maxWaiting=10)
    for number in range(12):
        put(api, str(number))
    path = f"/v1/webhooks/{made['webhookId']}"

    def counts() -> tuple[int, int]:
        found = api.get(path)
        return int(str(found["waiting"])), int(str(found["dropped"]))

    wait_for(lambda: sum(counts()) == 12, "all were noted")
    waiting, dropped = counts()
    assert 9 <= waiting <= 10, "the oldest are given up, a tenth at once"
    assert api.get(path)["maxWaiting"] == 10
    assert "Dropped" in api.daemon.plum("webhook", "get", "out.bounded").stdout
    assert f'plum_webhook_deliveries_total{{result="dropped"}} {dropped}.0' in api.ask(
        "GET", "/metrics").text
    api.gone(path)


def test_what_waits_survives_kill_9(daemon: Running) -> None:
    port = free_port()
    with Api(daemon) as api:
        made = webhook(api, "out.durable", port)
        for number in range(10):
            put(api, str(number))
        wait_for(lambda: len(deliveries(api, made)) == 10, "all are noted")
        wait_for(lambda: all(int(str(one["attempts"])) > 0 for one in deliveries(api, made)),
                 "all were tried")
    daemon.kill()
    far = Receiver(port)
    try:
        daemon.start()
        with Api(daemon) as api:
            wait_for(lambda: states(api, made) == ["delivered"] * 10, "all are delivered")
            seen = {headers["webhook-id"] for headers, _ in far.got}
            assert len(seen) == 10
            assert sorted(str(one["data"]["key"]) for one in far.events()) == sorted(  # type: ignore[index]
                map(str, range(10)))
    finally:
        far.close()


def test_the_program(api: Api, far: Receiver, tmp_path: object) -> None:
    del tmp_path
    plum = api.daemon.plum
    body = json.dumps({"name": "out.cli", "url": f"http://127.0.0.1:{far.port}/", "topics": ["kv"]})
    assert "whsec_" in plum("webhook", "create", "-f", "-", given=body).stdout
    put(api, "cli")
    wait_for(lambda: plum("webhook", "deliveries", "out.cli", "--state", "delivered", "-o",
                          "name").stdout.strip() != "", "it came")
    number = plum("webhook", "deliveries", "out.cli", "-o", "name").stdout.split()[0]
    assert plum("webhook", "retry", "out.cli", number).returncode == 0
    assert plum("webhook", "retry", "out.cli", "0").returncode == 3
    assert "out.cli" in plum("webhook", "list").stdout
    for verb in ("pause", "resume", "get", "delete"):
        assert plum("webhook", verb, "out.cli").returncode == 0
    assert plum("webhook", "get", "out.cli").returncode == 3
