"""The routes of services and discovery, as the old SDKs use them: over real sockets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from plumd.api.context import Context
from plumd.api.services import Services, routes
from plumd.clock import SystemClock
from plumd.engine import Engine
from plumd.executors import Attempt, Stop
from plumd.executors.outgoing import Client
from plumd.executors.service import Service
from plumd.model import Limits
from plumd.outbox import Outbox
from plumd.planner import Planner
from plumd.services import Registry
from plumd.store.blobs import Blobs
from plumd.store.definitions import Catalog
from plumd.store.store import Store
from tests.api.serving import Answer, Served, running

HTTP = {"serviceName": "web", "port": 80, "protocol": "http"}


class Door:
    """Plain requests to a running server, as the SDKs send them."""

    def __init__(self, served: Served, registry: Registry) -> None:
        self.served = served
        self.registry = registry

    async def ask(self, method: str, path: str, body: object = None) -> Answer:
        """One request; no JSON content type, for theirs is not reliable."""
        data = b"" if body is None else body if isinstance(body, bytes) else (
            msgspec.json.encode(body))
        client = await self.served.connect()
        async with client.stream:
            await client.send(
                f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain\r\n"
                f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
            return await client.answer(method)

    async def get(self, path: str) -> list[dict[str, object]]:
        """A list that is there."""
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer.body
        found: list[dict[str, object]] = json.loads(answer.body)
        return found

    async def names(self) -> list[str]:
        """The services."""
        found: list[str] = json.loads((await self.ask("GET", "/v1/services/list")).body)
        return found

    async def register(self, instance: str, *endpoints: object, query: str = "",
                       **more: object) -> Answer:
        """Register an instance."""
        return await self.ask("POST", "/v1/services/register" + query, {
            "instanceId": instance, "ip": "10.0.0.1", "endpoints": endpoints, **more})


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Door]:
    """A server with the services' routes over an engine."""
    store = Store(path / "plum.db")
    outbox, catalog = Outbox(store), Catalog(store)
    planner = Planner(catalog)
    engine = Engine(store, SystemClock(), outbox, planner, Limits(), seed=1)
    registry = Registry(store, engine.clock, engine.write)
    registry.load()
    handlers = Services(Context(engine, catalog, planner, Blobs(path / "blobs")), registry)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run)
        nursery.start_soon(registry.run)
        async with running(routes(handlers)) as served:
            yield Door(served, registry)
        nursery.cancel_scope.cancel()
    store.close()


def without_times(found: list[dict[str, object]]) -> list[dict[str, object]]:
    """The same without lastSeen, which must be a recent Unix time in ms."""
    for one in found:
        seen = one.pop("lastSeen")
        assert isinstance(seen, int)
        assert seen > 1_700_000_000_000
    return found


WHOLE = {"serviceName": "web", "instanceId": "i", "nodeId": "n1", "ip": "10.0.0.1", "port": 80,
         "protocol": "http", "version": "1.2", "labels": {"zone": "a"}, "healthy": True,
         "why": "", "inFlight": 0, "breaker": "closed", "breakerUntil": 0, "failures": 0}


async def test_the_form_with_a_list(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        answer = await door.register("i", {**HTTP, "version": "1.2", "labels": {"zone": "a"}},
                                     nodeId="n1")
        assert (answer.status, answer.body) == (204, b"")
        assert without_times(await door.get("/v1/discovery?service=web")) == [WHOLE]


async def test_the_form_with_the_ip_inside_the_endpoint(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        answer = await door.ask("POST", "/v1/services/register", {
            "instanceId": "i", "nodeId": "n1", "ip": "", "endpoints": [
                {**HTTP, "ip": "10.0.0.1", "version": "1.2", "labels": {"zone": "a"}}]})
        assert answer.status == 204
        assert without_times(await door.get("/v1/discovery?service=web")) == [WHOLE]


async def test_the_flat_form_with_odd_keys_nulls_and_a_tail(tmp_path: Path) -> None:
    body = (b'{"InstanceId":"i","servicename":"web","nodeId":"n1","ip":"10.0.0.1","port":80,'
            b'"protocol":"http","version":"1.2","labels":{"zone":"a"},"endpoints":null,'
            b'"unknown":[1]}\0garbage')
    async with opened(tmp_path) as door:
        assert (await door.ask("POST", "/v1/services/register", body)).status == 204
        assert without_times(await door.get("/v1/discovery?service=web")) == [WHOLE]


async def test_an_address_that_nobody_gave_is_the_callers(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        assert (await door.register("i", HTTP, ip=None)).status == 204
        assert (await door.get("/v1/services"))[0]["ip"] == "127.0.0.1"


@pytest.mark.parametrize(("body", "field"), [
    ({"endpoints": [HTTP]}, "instanceId"), ({"instanceId": "", "endpoints": []}, "instanceId"),
    ({"instanceId": "i"}, "endpoints"), ({"instanceId": "i", "serviceName": "web"}, "port"),
    ({"instanceId": "i", "endpoints": [{**HTTP, "port": 0}]}, "endpoints[0].port"),
    ({"instanceId": "i", "endpoints": [{**HTTP, "port": "80"}]}, "endpoints[0].port"),
    ({"instanceId": "i", "endpoints": [{**HTTP, "serviceName": ""}]},
     "endpoints[0].serviceName"),
    ({"instanceId": "i", "ip": "a/b", "endpoints": [HTTP]}, "ip"),
    ({"instanceId": "i", "endpoints": [HTTP] * 1001}, "endpoints"),
])
async def test_what_is_wrong_is_named(tmp_path: Path, body: object, field: str) -> None:
    async with opened(tmp_path) as door:
        answer = await door.ask("POST", "/v1/services/register", body)
        assert answer.status == 422
        problem = json.loads(answer.body)
        assert (problem["code"], problem["field"]) == ("invalid", field)
        assert await door.get("/v1/services") == []


async def test_registering_adds_and_replace_replaces(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.register("i", HTTP)
        await door.register("i", {**HTTP, "port": 81})
        assert [one["port"] for one in await door.get("/v1/services")] == [80, 81]
        answer = await door.register("i", {**HTTP, "port": 82}, query="?replace=true")
        assert answer.status == 204
        assert [one["port"] for one in await door.get("/v1/services")] == [82]


@pytest.mark.parametrize("word", ["health", "endpoints"])
async def test_heartbeats_with_a_list(tmp_path: Path, word: str) -> None:
    async with opened(tmp_path) as door:
        await door.register("i", HTTP, {**HTTP, "port": 81})
        answer = await door.ask("POST", "/v1/services/heartbeat", {"instanceId": "i", word: [
            {"serviceName": "web", "ip": "10.0.0.1", "port": 80, "protocol": "http",
             "healthy": False}]})
        assert (answer.status, answer.body) == (204, b"")
        assert [one["port"] for one in await door.get("/v1/discovery?service=web")] == [81]
        everyone = await door.get("/v1/services?service=web")
        assert [one["healthy"] for one in everyone] == [False, True]


async def test_heartbeats_without_a_list(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.register("i", HTTP)
        commits = door.registry.store.commits
        for body in ({"instanceId": "i"}, {"instanceId": "i", "health": None},
                     {"instanceId": "i", "health": []}):
            assert (await door.ask("POST", "/v1/services/heartbeat", body)).status == 204
        assert door.registry.store.commits == commits
        answer = await door.ask("POST", "/v1/services/heartbeat", {"instanceId": "nobody"})
        assert answer.status == 404


async def test_an_instance_leaves(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.register("i", HTTP, {**HTTP, "serviceName": "db"})
        await door.register("j", HTTP)
        answer = await door.ask("DELETE", "/v1/services?instanceId=i")
        assert (answer.status, answer.body) == (204, b"")
        assert [one["instanceId"] for one in await door.get("/v1/services")] == ["j"]
        assert await door.names() == ["web"]
        assert (await door.ask("DELETE", "/v1/services?instanceId=i")).status == 404
        assert (await door.ask("DELETE", "/v1/services")).status == 422


ONE = "/v1/services/endpoint?serviceName=web&instanceId=i&ip=10.0.0.1&port=80&protocol=http"


async def test_one_endpoint_is_removed(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        await door.register("i", HTTP, {**HTTP, "port": 81})
        assert (await door.ask("DELETE", ONE)).status == 204
        assert [one["port"] for one in await door.get("/v1/services")] == [81]
        assert (await door.ask("DELETE", ONE)).status == 404
        assert (await door.ask("DELETE", ONE.replace("port=80", "port=x"))).status == 422


@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_one_endpoint_is_changed(tmp_path: Path, method: str) -> None:
    async with opened(tmp_path) as door:
        await door.register("i", {**HTTP, "labels": {"zone": "a"}}, nodeId="n1")
        whole = {**WHOLE, "version": "2"}
        assert (await door.ask(method, "/v1/services/endpoint", whole)).status == 204
        assert without_times(await door.get("/v1/services")) == [whole]
        moved = {**whole, "port": 90, "healthy": False}
        assert (await door.ask(method, ONE, moved)).status == 204
        assert without_times(await door.get("/v1/services")) == [moved]
        assert await door.get("/v1/discovery?service=web") == []


async def test_only_put_makes_an_endpoint(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        assert (await door.ask("PATCH", "/v1/services/endpoint", WHOLE)).status == 404
        assert (await door.ask("PUT", "/v1/services/endpoint", WHOLE)).status == 204
        assert [one["healthy"] for one in await door.get("/v1/services")] == [True]
        assert (await door.ask("PUT", "/v1/services/endpoint", {"port": 1})).status == 422


async def test_discovery_and_its_filters(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        for number in range(3):
            await door.register(f"i{number}", {**HTTP, "version": str(number)})
        await door.register("g", {**HTTP, "protocol": "grpc", "port": 81},
                            {**HTTP, "serviceName": "db"})

        async def found(query: str) -> list[object]:
            return [one["instanceId"] for one in await door.get("/v1/discovery" + query)]

        assert await found("?service=web") == ["g", "i0", "i1", "i2"]
        assert await found("?service=web&version=1") == ["i1"]
        assert await found("?service=web&protocol=GRPC") == ["g"]
        assert await found("?service=web&limit=2") == ["g", "i0"]
        assert await found("?service=web&limit=2&all=true") == ["g", "i0", "i1", "i2"]
        assert await found("?service=nobody") == []
        assert len(await found("?all=true")) == 5
        assert (await door.ask("GET", "/v1/discovery")).status == 422
        assert await door.names() == ["db", "web"]
        assert (await door.ask("HEAD", "/v1/services/list")).status == 200


async def test_one_endpoint_by_strategy(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        for instance in ("a", "b"):
            await door.register(instance, HTTP)

        async def picks(path: str) -> list[str]:
            answers = [await door.ask("GET", f"/v1/discovery/{path}") for _ in range(4)]
            assert {one.status for one in answers} == {200}
            return [json.loads(one.body)["instanceId"] for one in answers]

        assert await picks("one?service=web&strategy=round-robin") == ["a", "b", "a", "b"]
        assert sorted(await picks("one?service=web&strategy=least-loaded")) == list("aabb")
        assert len(set(await picks("one?service=web&strategy=lazy"))) == 1
        assert set(await picks("random?service=web")) <= {"a", "b"}
        assert set(await picks("one?service=web")) <= {"a", "b"}
        for path in ("random?service=x", "one?service=x", "one?service=web&version=7"):
            assert (await door.ask("GET", f"/v1/discovery/{path}")).status == 404
        for path in ("one?service=web&strategy=best", "one", "random"):
            assert (await door.ask("GET", f"/v1/discovery/{path}")).status == 422


async def test_pages_of_endpoints(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        for port in range(1, 8):
            await door.register(f"i{port % 2}", {**HTTP, "port": port})
        assert len(await door.get("/v1/services")) == 7
        assert [one["port"] for one in await door.get("/v1/services?instanceId=i0")] == [2, 4, 6]
        seen, path = [], "/v1/services?limit=3"
        while path:
            answer = await door.ask("GET", path)
            seen += [one["port"] for one in json.loads(answer.body)]
            link = answer.headers.get("link", "")
            path = link.partition(">")[0].strip("<")
        assert seen == [2, 4, 6, 1, 3, 5, 7]
        assert (await door.ask("GET", "/v1/services?cursor=W10")).status == 422


EXAMPLE = Path(__file__).parents[2] / "examples" / "http_service.py"


async def test_the_example_registers_answers_and_leaves(tmp_path: Path) -> None:
    async with opened(tmp_path) as door:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-u", str(EXAMPLE), "--plum",
             f"http://127.0.0.1:{door.served.port}", "--name", "greeter"],
            stdout=subprocess.PIPE)
        assert process.stdout is not None
        said = b""
        with trio.fail_after(10):
            while b"registered as" not in said:
                more = await process.stdout.receive_some()
                assert more, said
                said += more
        assert await door.names() == ["greeter"]
        client = Client()
        attempt = Attempt(7, 1, "greet", b'{"who": "world"}', "service", "greeter",
                          {"servicePath": "/api/execute"})
        outcome = await Service(client, door.registry).run(attempt, Stop())
        client.close()
        assert outcome.result is not None, outcome.error
        assert json.loads(outcome.result)["received"] == {"who": "world"}
        process.terminate()
        with trio.fail_after(10):
            assert await process.wait() == 0
        assert await door.names() == []
        await process.stdout.aclose()
