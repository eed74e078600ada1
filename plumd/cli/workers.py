"""plum worker ... and plum service ..."""

from __future__ import annotations

import json
import socket
from itertools import chain

import click

from plumd.cli.screen import (
    Column,
    column,
    line,
    moment,
    moment_column,
    names,
    pairs,
    table,
    word,
)
from plumd.cli.session import (
    PlumGroup,
    Session,
    each,
    label_option,
    pass_session,
    read_optional,
)
from plumd.sdk.client import Client, Json, JsonObject, ProblemError, object_of, part


def address(item: JsonObject) -> str:
    """`http://10.0.0.7:8080`"""
    ip = word(item, "ip")
    host = f"[{ip}]" if ":" in ip else ip
    return f"{word(item, 'protocol')}://{host}:{word(item, 'port')}"


def offers(item: JsonObject) -> str:
    """The names of tasks that a worker takes; of an agent, whose processes."""
    return names(item, "tasks").replace("!os_process", "(processes)")


BASES = ("/v1/embedded-workers", "/v1/workers")
COLUMNS = (
    column("ID", "workerId"), column("KIND", "kind"), column("HEALTH", "health"),
    Column("RUNNING", lambda item: f"{word(item, 'running')}/{word(item, 'capacity')}"),
    column("NODE", "nodeId"), Column("TASKS", offers),
    moment_column("SEEN", "lastSeen"),
)
ENDPOINTS = (
    column("SERVICE", "serviceName"), column("INSTANCE", "instanceId"),
    Column("ENDPOINT", address), column("VERSION", "version"),
    column("HEALTHY", "healthy"), column("NODE", "nodeId"), moment_column("SEEN", "lastSeen"),
)
CALLED = (
    column("INSTANCE", "instanceId"), Column("ENDPOINT", address), column("HEALTHY", "healthy"),
    column("BREAKER", "breaker"), moment_column("UNTIL", "breakerUntil"),
    column("FAILURES", "failures"), column("CALLS", "inFlight"), column("WHY", "why"),
)
POLICIES = "/v1/services/policies"


@click.group("worker", cls=PlumGroup)
def workers() -> None:
    """Workers: programs that take attempts."""


@click.group("service", cls=PlumGroup)
def services() -> None:
    """Services and where they are."""


def find(client: Client, worker_id: str) -> tuple[str, JsonObject]:
    """(path, worker), of whichever kind. Raises: ProblemError."""
    for base in BASES:
        path = f"{base}/{part(worker_id)}"
        try:
            return path, client.get_object(path)
        except ProblemError as problem:
            if problem.status != 404:
                raise
    raise ProblemError(404, "not_found", f"no such worker: {worker_id}")


def show(session: Session, worker: JsonObject) -> None:
    """One worker."""
    session.screen.item(worker, "workerId", [
        ("ID", word(worker, "workerId")), ("Kind", word(worker, "kind")),
        ("Health", word(worker, "health")), ("Node", word(worker, "nodeId")),
        ("URL", word(worker, "url")), ("Instance", word(worker, "instanceId")),
        ("App", f"{word(worker, 'appName')} {word(worker, 'appVersion')}".strip()),
        ("Tasks", offers(worker)), ("Labels", pairs(worker, "labels")),
        ("Running", f"{word(worker, 'running')} of {word(worker, 'capacity')}"),
        ("Attempts", names(worker, "attempts")), ("Registered", moment(worker, "registeredAt")),
        ("Seen", moment(worker, "lastSeen")), ("Offline since", moment(worker, "offlineSince"))])


@workers.command("list")
@pass_session
def list_workers(session: Session) -> None:
    """List workers of both kinds: embedded ones, and those that are called back."""
    found = chain.from_iterable(session.client.items(base) for base in BASES)
    session.screen.items(found, "workerId", COLUMNS)


@workers.command("get")
@click.argument("worker_id", metavar="ID")
@pass_session
def get_worker(session: Session, worker_id: str) -> None:
    """Show a worker with the attempts that it holds."""
    show(session, find(session.client, worker_id)[1])


@workers.command()
@click.argument("worker_id", metavar="ID")
@pass_session
def drain(session: Session, worker_id: str) -> None:
    """Give a worker nothing new; what it has it ends."""
    path, _ = find(session.client, worker_id)
    show(session, session.client.act(path, "drain"))


@workers.command()
@click.argument("worker_id", metavar="ID")
@pass_session
def resume(session: Session, worker_id: str) -> None:
    """Let a drained worker take tasks again."""
    path, _ = find(session.client, worker_id)
    show(session, session.client.act(path, "resume"))


@workers.command("delete")
@click.argument("worker_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete_workers(session: Session, worker_ids: tuple[str, ...]) -> None:
    """Forget workers; what they hold is lost."""
    def remove(worker_id: str) -> None:
        session.client.request("DELETE", find(session.client, worker_id)[0])
        session.screen.say(f"deleted {worker_id}")

    each(session, worker_ids, remove)


# ---------------------------------------------------------------- service

@services.command("list")
@click.argument("name", required=False)
@pass_session
def list_services(session: Session, name: str | None) -> None:
    """List all endpoints, healthy or not, or those of the service NAME."""
    found = session.client.items("/v1/services", {"service": name})
    session.screen.items(found, "serviceName", ENDPOINTS)


@services.command("get")
@click.argument("name")
@pass_session
def get_service(session: Session, name: str) -> None:
    """Show how a service is called, and its endpoints with their breakers."""
    policy = session.client.get_object(f"{POLICIES}/{part(name)}")
    endpoints: list[Json] = list(session.client.items("/v1/services", {"service": name}))
    if session.screen.output != "table":
        session.screen.item({**policy, "endpoints": endpoints}, "service", ())
        return
    show_policy(session, policy)
    session.screen.show(table([one for one in endpoints if isinstance(one, dict)], CALLED))


def show_policy(session: Session, item: JsonObject) -> None:
    """How a service is called."""
    policy = item.get("policy")
    said = policy if isinstance(policy, dict) else {}
    session.screen.item(item, "service", [
        ("Service", word(item, "service")), ("Own policy", word(item, "own")),
        ("Strategy", word(said, "strategy")),
        ("Retries", f"{word(said, 'retryPercent')} % of calls, {word(item, 'retriesLeft')} left"),
        ("A try", f"{word(said, 'tryTimeoutSec')} s"),
        ("Breaker", line(json.dumps(said.get("breaker")))),
        ("Fallback", line(json.dumps(said.get("fallback"))))])


@services.command("policy")
@click.argument("name")
@click.option("-f", "--file", "body", metavar="FILE", callback=read_optional,
              help="The policy as JSON, or - for stdin.")
@click.option("--reset", is_flag=True, help="As every other service again.")
@pass_session
def policy(session: Session, name: str, body: JsonObject | None, reset: bool) -> None:
    """Say how a service is called: strategy, retryPercent, tryTimeoutSec, breaker, fallback."""
    path = f"{POLICIES}/{part(name)}"
    if reset:
        session.client.request("DELETE", path)
        session.screen.say(f"{name} is called as every other service")
    elif body is None:
        show_policy(session, session.client.get_object(path))
    else:
        show_policy(session, object_of(session.client.request("PUT", path, body)))


@services.command()
@click.argument("name")
@click.option("--version", help="Only this version.")
@click.option("--protocol", help="Only this protocol.")
@click.option("--strategy", metavar="WORD", help="Pick one: random, round-robin, least-loaded, "
              "weighted, sticky or lazy.")
@click.option("--sticky-key", metavar="TEXT", help="The same text has the same endpoint.")
@pass_session
def discover(session: Session, name: str, version: str | None, protocol: str | None,
             strategy: str | None, sticky_key: str | None) -> None:
    """Show a service's healthy endpoints, or one of them."""
    query = {"service": name, "version": version, "protocol": protocol}
    if strategy is None and sticky_key is None:
        session.screen.items(session.client.items("/v1/discovery", query), "instanceId", ENDPOINTS)
        return
    one = session.client.get_object("/v1/discovery/one", {**query, "strategy": strategy or "sticky",
                                                          "key": sticky_key})
    if session.screen.output == "table":
        session.screen.show(table([one], ENDPOINTS))
    else:
        session.screen.item(one, "instanceId", ())


@services.command()
@click.argument("name")
@click.option("--port", type=click.IntRange(1, 65535), required=True)
@click.option("--ip", help="Default: the address that this command comes from.")
@click.option("--instance", metavar="ID", help="Default: NAME-HOST-PORT.")
@click.option("--protocol", default="http", show_default=True)
@click.option("--version", default="")
@label_option
@pass_session
def register(session: Session, name: str, port: int, ip: str | None, instance: str | None,
             protocol: str, version: str, labels: dict[str, str]) -> None:
    """Say where a service is. The daemon itself looks whether it is well."""
    instance = instance or f"{name}-{socket.gethostname()}-{port}"
    session.client.request("POST", "/v1/services/register", {
        "instanceId": instance, "ip": ip or "", "endpoints": [{
            "serviceName": name, "port": port, "protocol": protocol, "version": version,
            "labels": dict(labels)}]})
    if session.screen.output == "table":
        session.screen.say(f"registered {instance}")
    else:
        session.screen.item({"instanceId": instance}, "instanceId", ())


@services.command("delete")
@click.argument("instances", metavar="INSTANCE...", nargs=-1, required=True)
@pass_session
def delete_services(session: Session, instances: tuple[str, ...]) -> None:
    """Forget instances with all their endpoints."""
    def remove(instance: str) -> None:
        session.client.request("DELETE", "/v1/services", query={"instanceId": instance})
        session.screen.say(f"deleted {instance}")

    each(session, instances, remove)
