"""MQTT with a real broker: messages start runs, events become messages, through kill -9 and a
broker that goes away."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from plumd import mqtt_packets as packets
from plumd.mqtt_packets import Connack, Puback, Publish, Suback
from tests.api.live import Api, Json, refused
from tests.daemon.plant import wait_for
from tests.daemon.running import Running, free_port

pytestmark = pytest.mark.daemon
BROKER = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")


class Mosquitto:
    """The real broker on a port, with its state on disk."""

    def __init__(self, folder: Path) -> None:
        assert BROKER is not None, "mosquitto is missing: make test-deps"
        self.port = free_port()
        self.config = folder / "mosquitto.conf"
        (folder / "state").mkdir()
        self.config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/state/\nuser root\nautosave_interval 1\n")
        self.start()

    def start(self) -> None:
        """Start, and wait until it listens."""
        self.process = subprocess.Popen([str(BROKER), "-c", str(self.config)],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(self.listens, "the broker listens")

    def listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """Stop, and keep what it has."""
        self.process.terminate()
        self.process.wait(10)


class Client:
    """Somebody else at the broker, speaking by the same packets."""

    def __init__(self, port: int, name: str, *filters: str) -> None:
        self.line = socket.create_connection(("127.0.0.1", port), 10)
        self.reader = packets.Reader()
        self.came: list[packets.Packet] = []
        self.line.sendall(packets.connect(name, 60))
        self.next(Connack)
        if filters:
            self.line.sendall(packets.subscribe(1, filters))
            self.next(Suback)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.line.close()

    def next(self, kind: type[packets.Packet]) -> packets.Packet:
        """The next packet of a kind; messages are acknowledged."""
        while True:
            for place, one in enumerate(self.came):
                if isinstance(one, kind):
                    return self.came.pop(place)
            data = self.line.recv(65_536)
            assert data, "the broker hung up"
            for one in self.reader.feed(data):
                if isinstance(one, Publish) and one.pid:
                    self.line.sendall(packets.puback(one.pid))
                self.came.append(one)

    def publish(self, topic: str, value: object, pid: int) -> None:
        """Send a message, and wait until the broker has it."""
        self.line.sendall(packets.publish(topic, json.dumps(value).encode(), pid))
        self.next(Puback)


@pytest.fixture(name="broker")
def real_broker(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker of the test's own."""
    found = Mosquitto(tmp_path)
    yield found
    found.stop()


class Fake:
    """A broker that says what the test wants it to say."""

    def __init__(self) -> None:
        self.door = socket.create_server(("127.0.0.1", 0))
        self.door.settimeout(30)
        self.port = self.door.getsockname()[1]
        self.lines: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """It is gone."""
        for one in (self.door, *self.lines):
            one.close()

    def welcome(self) -> None:
        """The next connection, up to its CONNACK."""
        self.line, _ = self.door.accept()
        self.lines.append(self.line)
        self.line.settimeout(30)
        assert self.next()[0] == 0x10
        self.line.sendall(b"\x20\x02\x00\x00")

    def some(self, count: int) -> bytes:
        found = b""
        while len(found) < count:
            data = self.line.recv(count - len(found))
            assert data, "the daemon hung up"
            found += data
        return found

    def next(self) -> tuple[int, bytes]:
        """(first byte, body) of the next packet, pings left out; all are short."""
        while True:
            first, size = self.some(2)
            body = self.some(size)
            if first != packets.PINGREQ[0]:
                return first, body


def connected(api: Api, name: str) -> bool:
    return api.get(f"/v1/brokers/{name}")["state"] == "connected"


def prepared(api: Api, broker: Mosquitto) -> tuple[Json, str]:
    """A broker, and a trigger of its messages; (trigger, workflow)."""
    api.done("PUT", "/v1/brokers/main", {"url": f"mqtt://127.0.0.1:{broker.port}"})
    flow = str(api.made("/v1/workflows", {"name": "taken", "steps": [
        {"id": "a", "task": {"name": "builtin.echo"}}]})["workflowId"])
    made = api.made("/v1/triggers", {
        "name": "messages", "kind": "mqtt", "broker": "main", "topic": "rig/+/done",
        "workflowId": flow, "filter": "event.data.n != 0",
        "payload": {"n": "${event.data.n}", "from": "${event.headers.topic}"}})
    wait_for(lambda: connected(api, "main"), "the session is up")
    return made, flow


def numbers(api: Api, flow: str) -> list[int]:
    """The payloads' numbers of all runs."""
    runs = api.walk(f"/v1/workflow-runs?limit=1000&workflowId={flow}")
    return sorted(run["payload"]["n"] for run in runs)  # type: ignore[index]


def test_messages_start_runs(daemon: Running, broker: Mosquitto) -> None:
    with Api(daemon) as api:
        made, flow = prepared(api, broker)
        with Client(broker.port, "other") as other:
            for n in range(20):
                other.publish(f"rig/{n}/done", {"n": n}, n + 1)
            other.publish("rig/1/begun", {"n": 99}, 99)
        wait_for(lambda: len(numbers(api, flow)) == 19, "all but the filtered one")
        assert numbers(api, flow) == list(range(1, 20))
        events = api.items(f"/v1/triggers/{made['triggerId']}/events?state=filtered")
        assert len(events) == 1
        run = api.items(f"/v1/workflow-runs?workflowId={flow}")[-1]
        assert run["payload"] == {"n": 1, "from": "rig/1/done"}
        refused(api.ask("DELETE", "/v1/brokers/main"), 409, "wrong_state")


def test_what_comes_while_the_daemon_is_away_is_taken_once(daemon: Running,
                                                           broker: Mosquitto) -> None:
    with Api(daemon) as api:
        _, flow = prepared(api, broker)
    sent = 0
    with Client(broker.port, "other") as other:
        for _ in range(3):
            for _ in range(30):
                sent += 1
                other.publish("rig/a/done", {"n": sent}, sent)
            daemon.kill()
            for _ in range(10):
                sent += 1
                other.publish("rig/b/done", {"n": sent}, sent)
            daemon.start()
    with Api(daemon) as api:
        wait_for(lambda: len(numbers(api, flow)) >= sent, "all were taken")
        assert numbers(api, flow) == list(range(1, sent + 1))


def test_the_broker_goes_away_and_comes_back(daemon: Running, broker: Mosquitto) -> None:
    with Api(daemon) as api:
        _, flow = prepared(api, broker)
        hook = api.made("/v1/webhooks", {"name": "told", "url": "mqtt:main/plum/kv",
                                         "topics": ["kv"]})
        broker.stop()
        wait_for(lambda: not connected(api, "main"), "it is noticed")
        api.done("PUT", "/v1/kv/mqtt/while-away", {"value": "1"})
        broker.start()
        with Client(broker.port, "listener", "plum/#") as other:
            wait_for(lambda: connected(api, "main"), "it is up again")
            api.done("PUT", "/v1/kv/mqtt/after", {"value": "1"})
            keys: set[str] = set()
            while len(keys) < 2:
                message = other.next(Publish)
                assert isinstance(message, Publish)
                assert message.topic == "plum/kv"
                keys.add(json.loads(message.payload)["data"]["key"])
            assert keys == {"while-away", "after"}
            other.publish("rig/x/done", {"n": 5}, 5)
        wait_for(lambda: numbers(api, flow) == [5], "and takes messages again")
        path = f"/v1/webhooks/{hook['webhookId']}/deliveries"
        wait_for(lambda: all(one["state"] == "delivered" for one in api.items(path)), "both told")


def test_a_broker_that_behaves_badly(daemon: Running) -> None:
    with Fake() as fake, Api(daemon) as api:
        api.done("PUT", "/v1/brokers/fake", {"url": f"mqtt://127.0.0.1:{fake.port}"})
        fake.welcome()
        flow = api.made("/v1/workflows", {
            "name": "fake", "steps": [{"type": "parallel"}]})["workflowId"]
        made = api.made("/v1/triggers", {"name": "fake", "kind": "mqtt", "broker": "fake",
                                         "topic": "a/#", "workflowId": flow})
        fake.welcome()
        first, body = fake.next()
        assert first == 0x82
        fake.line.sendall(b"\x90\x03" + body[:2] + b"\x00")
        wait_for(lambda: "QoS 0" in str(api.get("/v1/brokers/fake")["problem"]), "it is told")
        assert api.get("/v1/brokers/fake")["problemCode"] == "qos_low"
        # One that is too large is passed over, and those behind it come; none that nobody wants.
        fake.line.sendall(packets.publish("a/large", b"x" * (3 << 20), 7)
                          + packets.publish("b", b"1", 8) + packets.publish("a/small", b"1", 9))
        pids: list[int] = []
        while len(pids) < 3:
            first, body = fake.next()
            assert first == 0x40
            pids.append(int.from_bytes(body))
        assert pids == [7, 8, 9]
        path = f"/v1/triggers/{made['triggerId']}/events"
        assert [(one["state"], one["reason"]) for one in api.items(path)] == [
            ("started", None), ("failed", "too_large")]
        # What is no longer wanted is not sent for ever.
        api.gone(f"/v1/triggers/{made['triggerId']}")
        fake.welcome()
        first, body = fake.next()
        assert (first, body[2:]) == (0xA2, packets.text("a/#"))
        fake.close()
        wait_for(lambda: api.get("/v1/brokers/fake")["state"] == "away", "it is gone")
        problem = str(api.get("/v1/brokers/fake")["problem"])
        assert "closed the connection" in problem or "cannot be reached" in problem
        assert api.get("/v1/brokers/fake")["problemCode"] in ("unreachable", "connection_lost")


def test_a_broker_that_was_never_there_is_away(daemon: Running) -> None:
    with Api(daemon) as api:
        api.done("PUT", "/v1/brokers/nowhere", {"url": f"mqtt://127.0.0.1:{free_port()}"})
        wait_for(lambda: api.get("/v1/brokers/nowhere")["state"] == "away", "the dial failed")
        nowhere = api.get("/v1/brokers/nowhere")
        assert "cannot be reached" in str(nowhere["problem"])
        assert nowhere["problemCode"] == "unreachable"


def test_what_cannot_be_is_refused(daemon: Running) -> None:
    with Api(daemon) as api:
        flow = api.made("/v1/workflows", {
            "name": "x", "steps": [{"type": "parallel"}]})["workflowId"]
        for url in ("http://x", "mqtt://", "mqtt://u@x", "mqtt://x/y", "mqtt://x:0", "x"):
            refused(api.ask("PUT", "/v1/brokers/bad", {"url": url}), 422, "invalid", "url")
        refused(api.ask("GET", "/v1/brokers/bad"), 404, "not_found")
        refused(api.ask("DELETE", "/v1/brokers/bad"), 404, "not_found")
        trigger = {"name": "x", "kind": "mqtt", "workflowId": flow, "broker": "none", "topic": "a"}
        refused(api.ask("POST", "/v1/triggers", trigger), 422, "invalid", "broker")
        made = api.done("PUT", "/v1/brokers/far", {"url": "mqtt://169.254.169.254", "user": "u",
                                                   "password": "secret"})
        assert (made["hasPassword"], "secret" in str(made)) == (True, False)
        wait_for(lambda: "is not called" in str(api.get("/v1/brokers/far")["problem"]),
                 "a forbidden address")
        for topic in ("", "a#", "#/a"):
            refused(api.ask("POST", "/v1/triggers", trigger | {"broker": "far", "topic": topic}),
                    422, "invalid", "topic")
        for url in ("mqtt:far/", "mqtt:far/a/#", "mqtt:none/a"):
            refused(api.ask("POST", "/v1/webhooks", {"name": "x", "url": url, "topics": ["kv"]}),
                    422, "invalid", "url")
        kept = api.done("PUT", "/v1/brokers/far", {"url": "mqtts://127.0.0.1"})
        assert (kept["version"], kept["clientId"], kept["hasPassword"]) == (
            2, made["clientId"], True)
        refused(api.ask("PUT", "/v1/brokers/far", {"url": "mqtt://x"}, headers={
            "if-match": '"1"'}), 412, "version_mismatch")
        plum = daemon.plum
        assert plum("broker", "put", "far", "mqtt://127.0.0.1:1", "--user", "me",
                    "--password-file", "-", given="word\n").returncode == 0
        assert "far" in plum("broker", "list").stdout
        assert "mqtt://127.0.0.1:1" in plum("broker", "get", "far").stdout
        assert plum("broker", "delete", "far").returncode == 0
        assert plum("broker", "get", "far").returncode == 3
