"""plum instance ..."""

from __future__ import annotations

from typing import Final

import click

from plumd.cli.screen import Column, column, moment, word
from plumd.cli.session import PlumGroup, Session, each, limit_option, pass_session
from plumd.sdk.client import JsonObject, part

BASE: Final = "/v1/instances"
ASSIGNED: Final = "/v1/assignments"


def used(item: JsonObject, name: str) -> float | None:
    """What an instance uses, None when nobody said."""
    stats = item.get("stats")
    found = stats.get(name) if isinstance(stats, dict) else None
    return found if isinstance(found, int | float) else None


def cpu_of(item: JsonObject) -> str:
    """`12 %` of one processor"""
    found = used(item, "cpuPercent")
    return "" if found is None else f"{found:.0f} %"


def memory_of(item: JsonObject) -> str:
    """`34 MiB`"""
    found = used(item, "memoryBytes")
    return "" if found is None else f"{found / (1 << 20):.0f} MiB"


INSTANCES: Final = (
    column("ID", "instanceId"), column("ENTRY", "entry"), column("#", "ordinal"),
    column("NODE", "nodeId"), column("STATE", "state"), column("VERSION", "appVersion"),
    column("RESTARTS", "restarts"), Column("CPU", cpu_of), Column("MEMORY", memory_of),
    column("EXIT", "exitCode"), column("ENDS", "retired"),
    column("WHY", "why"),
)
OF_ALL: Final = (*INSTANCES[:1], column("DEPLOYMENT", "deploymentId"), *INSTANCES[1:])


@click.group("instance", cls=PlumGroup)
def group() -> None:
    """Instances: the copies of deployments, each on one node."""


def show(session: Session, item: JsonObject) -> None:
    """A card."""
    app = " ".join(filter(None, (word(item, "appName"), word(item, "appVersion"))))
    session.screen.item(item, "instanceId", [
        ("instance", word(item, "instanceId")), ("deployment", word(item, "deploymentId")),
        ("entry", f"{word(item, 'entry')} {word(item, 'ordinal')}"), ("app", app),
        ("node", word(item, "nodeId")), ("state", word(item, "state")),
        ("wanted", word(item, "desired")), ("ends", word(item, "retired")),
        ("why", word(item, "why")), ("message", word(item, "message")),
        ("process", word(item, "pid")), ("restarts", word(item, "restarts")),
        ("exit code", word(item, "exitCode")), ("signal", word(item, "signal")),
        ("CPU", cpu_of(item)), ("memory", memory_of(item)),
        ("started", moment(item, "startedAt")), ("heard of", moment(item, "lastReportAt"))])


@group.command("list")
@click.option("--node", help="Only those on this node.")
@click.option("--state", help="Only those that are so, as Running, Failed or Unhealthy.")
@limit_option
@pass_session
def list_instances(session: Session, node: str | None, state: str | None, limit: int) -> None:
    """List the instances of all deployments, oldest first."""
    session.screen.items(session.client.items(BASE, {"nodeId": node, "state": state},
                                              limit=limit or None), "instanceId", OF_ALL)


@group.command("get")
@click.argument("instance_id", metavar="ID")
@pass_session
def get_instance(session: Session, instance_id: str) -> None:
    """Show an instance, what it uses, and how it ended."""
    show(session, session.client.get_object(f"{BASE}/{part(instance_id)}"))


@group.command("logs")
@click.argument("instance_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Stay and show more as it comes.")
@click.option("--run", type=click.IntRange(min=1), metavar="N",
              help="Which start of it; default the latest.")
@click.option("--tail", type=click.IntRange(min=1), metavar="BYTES", default=None,
              help="Only so much of the end, and what comes behind it.")
@click.option("--raw", is_flag=True,
              help="Byte for byte. Without it control characters are shown as escapes.")
@pass_session
def logs(session: Session, instance_id: str, follow: bool, run: int | None, tail: int | None,
         raw: bool) -> None:
    """Print what an instance prints, from its node."""
    session.screen.log(session.client.instance_logs(instance_id, run=run, follow=follow,
                                                    tail_bytes=tail or 0), raw=raw)


def want(session: Session, instance_ids: tuple[str, ...], desired: str, said: str) -> None:
    """Let instances run, or not."""
    def one(instance_id: str) -> None:
        session.client.request("PATCH", f"{ASSIGNED}/{part(instance_id)}", {"desired": desired})
        session.screen.say(f"{instance_id}: {said}")

    each(session, instance_ids, one)


@group.command("stop")
@click.argument("instance_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def stop(session: Session, instance_ids: tuple[str, ...]) -> None:
    """Stop these alone; they stay where they are."""
    want(session, instance_ids, "Stopped", "stops")


@group.command("start")
@click.argument("instance_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def start(session: Session, instance_ids: tuple[str, ...]) -> None:
    """Let those run again that were stopped alone."""
    want(session, instance_ids, "Running", "starts")


@group.command("delete")
@click.argument("instance_ids", metavar="ID...", nargs=-1, required=True)
@pass_session
def delete(session: Session, instance_ids: tuple[str, ...]) -> None:
    """Take these away for good: their entries are scaled down by them."""
    def one(instance_id: str) -> None:
        session.client.request("DELETE", f"{ASSIGNED}/{part(instance_id)}")
        session.screen.say(f"{instance_id}: deleted")

    each(session, instance_ids, one)
